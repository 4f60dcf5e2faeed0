"""OpenAI's streams as its clients read them, and what is on the wire."""

import json

import openai
import pytest

from tests.contract.asking import SAMPLED, close
from tests.contract.openai_asking import HIGH, LOW, TALK, asynchronous, metric, post, serving_openai
from tests.serving import QUESTION, make_parts, wait_until


def body(**changes):
    return {"messages": TALK, "temperature": 0, "max_tokens": 24, **changes}


def read(client, path="/v1/chat/completions", **changes):
    """The chunks of a stream; everything else that may stand on the wire fails."""
    answer = post(client, path, body(stream=True, **changes))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-hguard-probe"]
    assert answer.headers["x-request-id"]
    lines = [line for line in answer.text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    return chunks


async def gather(client, **changes):
    """What a loop over `AsyncOpenAI`'s stream puts together: text, log-probabilities, guard and reason by choice."""
    texts, entries, guards, passed, reasons = {}, {}, {}, {}, {}
    async with asynchronous(client) as patient:
        model = client.models.list().data[0].id
        extra = {"guard": changes.pop("guard", {}), "stream_mode": changes.pop("stream_mode", None)}
        stream = await patient.chat.completions.create(model=model, stream=True, **body(**changes), extra_body=extra)
        async for chunk in stream:
            choice = chunk.choices[0]
            at = choice.index
            texts[at] = texts.get(at, "") + (choice.delta.content or "")
            entries.setdefault(at, []).extend(choice.logprobs.content if choice.logprobs else [])
            if fields := getattr(choice.delta, "provider_specific_fields", None):
                assert choice.delta.content == ""
                assert at not in reasons
                passed[at] = fields["guard"]
            if choice.finish_reason:
                reasons[at], guards[at] = choice.finish_reason, choice.guard
                if at == 0:
                    assert chunk.guard == choice.guard
    assert guards == passed
    return texts, entries, guards, reasons


@pytest.mark.parametrize("mode", ["immediate", "hold"])
async def test_hazard_a_stream_says_something_else_than_the_answer(parts, mode):
    with serving_openai(parts) as client:
        for sampling in ({}, {"max_tokens": 1}, {"stop": ["s", "\ufffd"]}, {**SAMPLED, "n": 2}):
            wanted = post(client, "/v1/chat/completions", body(logprobs=True, **sampling)).json()["choices"]
            texts, entries, guards, reasons = await gather(client, logprobs=True, stream_mode=mode, **sampling)
            for choice in wanted:
                at = choice["index"]
                assert texts[at] == choice["message"]["content"]
                assert reasons[at] == choice["finish_reason"]
                assert close(guards[at], choice["guard"])
                streamed = [entry.model_dump() for entry in entries[at]]
                assert close(streamed, choice["logprobs"]["content"])


def test_hazard_the_numbers_of_a_stream_differ_in_the_last_bit():
    with serving_openai(make_parts()) as client:
        (wanted,) = post(client, "/v1/chat/completions", body()).json()["choices"]
        for mode in ("immediate", "hold"):
            assert read(client, stream_mode=mode)[-1]["guard"] == wanted["guard"]
        (wanted,) = post(client, "/v1/completions", {"prompt": QUESTION, "temperature": 0}).json()["choices"]
        chunks = read_text(client)
        assert chunks[-1]["guard"] == chunks[-1]["choices"][0]["guard"] == wanted["guard"]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == wanted["text"]


def read_text(client, **changes):
    sent = {"prompt": QUESTION, "temperature": 0, "stream": True, **changes}
    lines = post(client, "/v1/completions", sent).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_the_chunks_come_in_the_order_of_the_contract():
    with serving_openai(make_parts()) as client:
        *parts, passed, last = read(client, stream_options={"include_usage": True})
        assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [chunk["choices"][0]["delta"]["content"] for chunk in parts[1:]] == list("The answer is Paris.")
        assert all(chunk["usage"] is chunk["choices"][0]["finish_reason"] is None for chunk in [*parts, passed])
        guard = last["guard"]
        assert guard["status"] == "scored"
        assert passed["choices"][0]["delta"] == {"content": "", "provider_specific_fields": {"guard": guard}}
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["choices"][0]["guard"] == guard
        assert last["usage"]["completion_tokens"] == 20
        assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in parts}) == 1
        assert read(client)[-1]["usage"] is None


def test_the_clients_own_gathering_keeps_the_guard_with_the_message():
    with serving_openai(make_parts()) as client:
        whole = client.chat.completions.create(model="fake", messages=TALK, temperature=0, n=2).choices
        with client.chat.completions.stream(model="fake", messages=TALK, temperature=0, n=2) as stream:
            gathered = stream.get_final_completion().choices
        for found, wanted in zip(gathered, whole, strict=True):
            assert (found.message.content, found.finish_reason) == (wanted.message.content, wanted.finish_reason)
            assert found.message.provider_specific_fields["guard"] == wanted.guard


def test_the_counts_come_with_the_last_choice_and_not_without_one():
    with serving_openai(make_parts()) as client:
        chunks = read(client, n=2, stream_options={"include_usage": True})
        ends = [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]
        assert [chunk["choices"][0]["index"] for chunk in ends] == [0, 1]
        assert [bool(chunk["usage"]) for chunk in ends] == [False, True]
        assert [bool(chunk["guard"]) for chunk in ends] == [True, False]
        assert chunks[-1] is ends[-1]


@pytest.mark.parametrize(("policy", "text"), [("block", ""), ("abstain", "I am not sure enough to answer that.")])
async def test_a_withheld_stream_leaks_nothing(policy, text):
    guard = {"policy": policy, "threshold": LOW, "return_tokens": True}
    with serving_openai(make_parts()) as client:
        for path, asked in (("chat/completions", body()), ("completions", {"prompt": QUESTION})):
            answer = post(client, f"/v1/{path}", {**asked, "stream": True, "guard": guard})
            assert answer.status_code == 200
            assert "Paris" not in answer.text
            assert '"P"' not in answer.text
            assert '"finish_reason":"content_filter"' in answer.text
        texts, entries, guards, reasons = await gather(client, guard=guard, logprobs=True)
        assert (texts, entries, reasons) == ({0: text}, {0: []}, {0: "content_filter"})
        assert guards[0]["action"] == {"block": "blocked", "abstain": "abstained"}[policy]
        texts, _, _, reasons = await gather(client, guard={"policy": policy, "threshold": HIGH})
        assert (texts, reasons) == ({0: "The answer is Paris."}, {0: "stop"})
        refused = post(
            client, "/v1/chat/completions", body(stream=True, stream_mode="immediate", guard={"policy": policy})
        )
        assert refused.status_code == 422
        assert "leak" in refused.json()["error"]["message"]


@pytest.mark.parametrize("fault", ["crash", "missing_rows"])
async def test_hazard_a_stream_that_failed_looks_whole(fault):
    parts = make_parts(locator="response")
    with serving_openai(parts) as client:
        parts.engine.fault = fault
        with pytest.raises(openai.APIError) as failure:
            await gather(client)
        assert failure.value.code == {"crash": "engine_error", "missing_rows": "guard_unavailable"}[fault]
        text = post(client, "/v1/chat/completions", body(stream=True)).text
        assert "[DONE]" not in text
        assert '"finish_reason":"' not in text


async def test_a_client_that_leaves_a_stream_frees_its_slot_within_a_step():
    parts = make_parts(step_seconds=0.05, reply=lambda _: "word " * 100)
    with serving_openai(parts) as client:
        async with asynchronous(client) as patient:
            stream = await patient.chat.completions.create(model="fake", messages=TALK, n=2, stream=True)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            assert parts.engine.running == 2
            made = parts.engine.steps_total
            await stream.close()
            await wait_until(lambda: parts.engine.running == 0)
        assert parts.engine.steps_total - made <= 4  # two sequences, and a step began while the news was on its way
        await wait_until(lambda: metric(client, "hguard_client_disconnects_total") == 1)


async def test_a_stream_that_is_read_to_its_end_is_no_disconnect():
    with serving_openai(make_parts()) as client:
        for _ in range(3):
            await gather(client)
        assert metric(client, "hguard_client_disconnects_total") == 0
        assert metric(client, "hguard_requests_running") == 0


async def test_a_completion_streams_text_and_columns():
    with serving_openai(make_parts()) as client:
        whole = client.completions.create(model="fake", prompt=QUESTION, temperature=0, logprobs=0, n=2).choices
        async with asynchronous(client) as patient:
            stream = await patient.completions.create(
                model="fake", prompt=QUESTION, temperature=0, logprobs=0, n=2, stream=True
            )
            parts = [chunk.choices[0] async for chunk in stream]
        for choice in whole:
            own = [part for part in parts if part.index == choice.index]
            assert "".join(part.text for part in own) == choice.text
            assert [part.logprobs.token_risks[0] for part in own if part.logprobs] == choice.logprobs.token_risks
            assert (own[-1].finish_reason, own[-1].guard) == (choice.finish_reason, choice.guard)
