"""POST /v1/chat/completions and /v1/completions through the openai package: the guard arrives, and refusals do."""

import httpx
import openai
import pytest

from service.schemas.openai_request import ChatRequest
from tests.contract.asking import SAMPLED, close
from tests.contract.openai_asking import HIGH, LOW, TALK, asynchronous, generate, metric, post, serving_openai
from tests.serving import QUESTION, make_parts, wait_until

GREEDY = {"messages": TALK, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def fake():
    """A client of a server over the fake engine that no test changes."""
    with serving_openai(make_parts()) as client:
        yield client


def ask(client, **changes):
    guard = changes.pop("guard", {})
    return client.chat.completions.create(
        **{"model": client.models.list().data[0].id, **GREEDY, **changes}, extra_body={"guard": guard}
    )


def test_hazard_the_openai_route_answers_otherwise_than_generate(parts):
    with serving_openai(parts) as client:
        for sampling in ({}, {"max_tokens": 1}, {"stop": ["s", "\ufffd"]}, SAMPLED):
            wanted = generate(client, sampling=sampling, guard={"return_tokens": True})
            found = ask(client, **sampling, logprobs=True, guard={"return_tokens": True})
            (choice,), (other,) = found.choices, wanted["choices"]
            assert choice.message.content == other["text"]
            assert choice.message.role == "assistant"
            assert choice.finish_reason == other["finish_reason"]
            assert close(choice.guard, other["guard"])
            assert found.guard == choice.guard
            assert found.usage.model_dump(exclude_none=True) == wanted["usage"]
            entries, tokens = choice.logprobs.content, other["guard"]["tokens"]
            assert close([entry.risk for entry in entries], [token["risk"] for token in tokens])
            assert close([entry.logprob for entry in entries], [token["logprob"] for token in tokens])
            assert "".join(entry.token for entry in entries) == choice.message.content
            assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content


def test_hazard_a_completion_is_dressed_in_the_chat_template(parts):
    with serving_openai(parts) as client:
        wanted = generate(client, prompt=QUESTION, raw=True, guard={"return_tokens": True}, sampling={"max_tokens": 12})
        model = client.models.list().data[0].id
        for prompt in (QUESTION, [QUESTION]):
            found = client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0, logprobs=0)
            (choice,), (other,) = found.choices, wanted["choices"]
            assert (choice.text, choice.finish_reason) == (other["text"], other["finish_reason"])
            assert close(choice.guard, {**other["guard"], "tokens": None})
            assert found.guard == choice.guard
            assert found.usage.prompt_tokens == wanted["usage"]["prompt_tokens"] == len(QUESTION)
            assert "".join(choice.logprobs.tokens) == choice.text
            tokens = other["guard"]["tokens"]
            assert choice.logprobs.text_offset == [token["start"] for token in tokens]
            assert close(choice.logprobs.token_risks, [token["risk"] for token in tokens])


async def test_the_asynchronous_client_gets_several_choices_each_with_its_guard(parts):
    with serving_openai(parts) as client:
        wanted = generate(client, sampling={**SAMPLED, "n": 3})
        async with asynchronous(client) as patient:
            found = await patient.chat.completions.create(
                model=client.models.list().data[0].id, messages=TALK, n=3, **SAMPLED
            )
        assert [choice.message.content for choice in found.choices] == [c["text"] for c in wanted["choices"]]
        assert close([choice.guard for choice in found.choices], [c["guard"] for c in wanted["choices"]])
        assert found.guard == found.choices[0].guard


def test_headers_carry_risk_action_probe_and_request_id(fake):
    raw = fake.chat.completions.with_raw_response.create(
        model="fake", **GREEDY, extra_headers={"x-request-id": "abc-1"}, extra_body={"guard": {"policy": "flag"}}
    )
    guard = raw.parse().guard
    assert float(raw.headers["x-hguard-risk"]) == guard["risk"]
    assert raw.headers["x-hguard-action"] == guard["action"] == "flagged"
    assert raw.headers["x-hguard-probe"] == "fake@0"
    assert raw.headers["x-request-id"] == "abc-1"
    assert ask(fake)._request_id.startswith("req-")
    count = 'hguard_requests_total{action="flagged",code="200",route="/v1/chat/completions"}'
    assert metric(fake, count) == 1


def test_the_model_that_is_served_is_listed(fake):
    (model,) = fake.models.list().data
    assert (model.id, model.object, model.max_model_len) == ("fake", "model", 4096)
    assert ask(fake, model="fake").model == "fake"


@pytest.mark.parametrize(("policy", "text"), [("block", ""), ("abstain", "I am not sure enough to answer that.")])
def test_a_withheld_answer_is_content_filter_and_leaks_nothing(fake, policy, text):
    sent = {**GREEDY, "logprobs": True, "guard": {"policy": policy, "threshold": LOW, "return_tokens": True}}
    answer = post(fake, "/v1/chat/completions", sent)
    assert answer.status_code == 200
    assert "Paris" not in answer.text
    (choice,) = ask(fake, logprobs=True, guard=sent["guard"]).choices
    assert (choice.message.content, choice.finish_reason, choice.logprobs) == (text, "content_filter", None)
    assert choice.guard["risk"] > LOW
    assert {token["text"] for token in choice.guard["tokens"]} == {None}
    safe = ask(fake, guard={"policy": policy, "threshold": HIGH}).choices[0]
    assert (safe.message.content, safe.finish_reason) == ("The answer is Paris.", "stop")


def test_an_answer_that_the_guard_cut_does_not_look_whole():
    with serving_openai(make_parts(locator="response")) as client:
        (choice,) = ask(client, guard={"policy": "stop", "threshold": LOW}).choices
        assert (choice.message.content, choice.finish_reason) == ("T", "content_filter")
        assert choice.guard["action"] == "stopped"


def test_hazard_an_answer_that_was_not_scored_looks_clean():
    parts = make_parts()
    with serving_openai(parts) as client:
        parts.engine.fault = "missing_rows"
        with pytest.raises(openai.InternalServerError) as failure:
            ask(client)
        assert (failure.value.status_code, failure.value.code) == (503, "guard_unavailable")
        raw = client.chat.completions.with_raw_response.create(
            model="fake", **GREEDY, extra_body={"guard": {"on_error": "fail_open"}}
        )
        guard = raw.parse().guard
        assert (guard["status"], guard["risk"]) == ("failed", None)
        assert raw.headers["x-hguard-risk"] == "null"


@pytest.mark.parametrize(
    ("changes", "kind", "param"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "model"),
        ({"guard": {"probe": "other"}}, openai.NotFoundError, "guard.probe"),
        ({"guard": {"threshold": 2}}, openai.UnprocessableEntityError, "guard.threshold"),
        ({"guard": {"colour": "red"}}, openai.UnprocessableEntityError, "guard"),
        ({"temperature": 3}, openai.UnprocessableEntityError, "temperature"),
        ({"max_tokens": 5000}, openai.UnprocessableEntityError, "max_tokens"),
        ({"max_completion_tokens": 25}, openai.UnprocessableEntityError, None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.UnprocessableEntityError, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.UnprocessableEntityError, "messages[0].role"),
        ({"tools": [{"type": "function"}]}, openai.UnprocessableEntityError, "tools"),
        ({"response_format": {"type": "json_object"}}, openai.UnprocessableEntityError, "response_format"),
        ({"logit_bias": {"5": 1}}, openai.UnprocessableEntityError, "logit_bias"),
        ({"presence_penalty": 0.5}, openai.UnprocessableEntityError, "presence_penalty"),
        ({"logprobs": True, "top_logprobs": 2}, openai.UnprocessableEntityError, "top_logprobs"),
        ({"modalities": ["audio"]}, openai.UnprocessableEntityError, "modalities"),
        ({"stream_options": {"include_usage": True}}, openai.UnprocessableEntityError, None),
    ],
)
def test_refusals_are_the_clients_own_exceptions(fake, changes, kind, param):
    with pytest.raises(kind) as failure:
        ask(fake, **changes)
    assert failure.value.param == param
    assert failure.value.code
    assert failure.value.body["request_id"] == failure.value.request_id


def test_broken_json_is_a_bad_request_and_a_crash_a_server_error(fake):
    with pytest.raises(openai.BadRequestError):
        fake.post(
            "/chat/completions",
            cast_to=httpx.Response,
            content=b"{",
            options={"headers": {"content-type": "application/json"}},
        )
    parts = make_parts()
    with serving_openai(parts) as client:
        parts.engine.fault = "crash"
        with pytest.raises(openai.InternalServerError) as failure:
            ask(client)
    assert failure.value.code == "engine_error"
    assert "told to crash" not in str(failure.value)


def test_a_deadline_is_the_servers_word(fake):
    with serving_openai(make_parts(step_seconds=0.05)) as client, pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model="fake", messages=TALK, extra_body={"timeout_s": 0.1})
    assert (failure.value.status_code, failure.value.code) == (504, "timeout")


def test_what_a_client_leaves_out_it_may_send_as_null(fake):
    own = {"messages", "model", "temperature"}
    unset = dict.fromkeys(name for name in ChatRequest.model_fields if name not in own)
    talk = [{"role": "user", "content": QUESTION, "name": None, "tool_calls": None}]
    answer = post(fake, "/v1/chat/completions", {**unset, "model": None, "messages": talk, "temperature": None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "The answer is Paris."


def test_what_changes_nothing_is_taken(fake):
    found = fake.chat.completions.create(
        model="fake",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]},
        ],
        temperature=1,
        top_p=1,
        stop="is",
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        tools=[],
        response_format={"type": "text"},
        user="u",
        metadata={"team": "x"},
        store=False,
        extra_body={"top_k": -1},
    )
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("The answer ", "stop")


def test_the_servers_own_message_may_be_sent_back(fake):
    first = ask(fake).choices[0].message
    talk = [*TALK, first, {"role": "user", "content": "Why?"}]
    assert ask(fake, messages=talk).choices[0].message.content == first.content


def test_without_a_limit_a_chat_goes_on_and_a_completion_has_sixteen_tokens():
    with serving_openai(make_parts(reply=lambda _: "word " * 100)) as client:
        chat = client.chat.completions.create(model="fake", messages=TALK)
        assert (chat.usage.completion_tokens, chat.choices[0].finish_reason) == (500, "stop")
        text = client.completions.create(model="fake", prompt=QUESTION)
        assert (text.usage.completion_tokens, text.choices[0].finish_reason) == (16, "length")


async def test_a_client_that_gives_up_ends_the_generation():
    parts = make_parts(step_seconds=0.05, reply=lambda _: "word " * 100)
    with serving_openai(parts) as client:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(model="fake", messages=TALK, n=2)
        made = parts.engine.steps_total
        await wait_until(lambda: parts.engine.running == 0)
        assert parts.engine.steps_total - made <= 4  # two sequences, and a step began while the news was on its way
        await wait_until(lambda: metric(client, "hguard_client_disconnects_total") == 1)
