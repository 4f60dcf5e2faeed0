"""A held stream: nothing leaves before it was judged, nothing waits longer than its window, no blocked token leaves."""

import pytest

from probes.claims import split_sentences
from service.admission.auth import NO_LIMITS
from service.choices.generation import generate
from service.choices.hold import HoldGate
from service.choices.plan import plan_choices
from service.engines.base import EngineRequest, RequestTiming
from service.guard.transcript import Transcript
from service.observe.metrics import Metrics
from service.schemas.generate import GenerateRequest
from tests.serving import QUESTION, make_parts, read_events

REPLY = "The answer is Paris. It lies on the Seine. Its mayor is Anne Hidalgo. The tower was built by Eiffel."
STEP = "hguard_hold_delay_seconds_count"


def held(policy, threshold, locator="claims"):
    guard = {"policy": policy, "threshold": threshold, "locator": locator, "return_tokens": True}
    return {"prompt": QUESTION, "stream": True, "stream_mode": "hold", "guard": guard}


async def spans_of(client):
    """(text, end, risk) of each claim of the reply, by the JSON answer."""
    body = {"prompt": QUESTION, "guard": {"return_tokens": True}}
    guard = (await client.post("/generate", json=body)).json()["choices"][0]["guard"]
    return guard["spans"]


def text_of(events):
    return "".join(data["text"] for name, _, data in events if name == "token")


@pytest.mark.parametrize("locator", ["lexical", "claims", "response"])
@pytest.mark.parametrize("window", [1, 7, 64, 500, 0])
async def test_what_is_not_blocked_leaves_whole_and_as_in_json(serve, window, locator):
    client = await serve(make_parts(reply=lambda _: REPLY), hold_tokens=window)
    body = held("annotate", 0.5, locator)
    answer = (await client.post("/generate", json={**body, "stream": False})).json()
    events = read_events((await client.post("/generate", json=body)).text)
    assert text_of(events) == REPLY == answer["choices"][0]["text"]
    assert [at for name, at, _ in events if name == "token"] == [str(at) for at in range(len(REPLY))]
    assert events[-2][2]["risk"] == answer["risk"]
    assert events[-2][2]["spans"] == answer["choices"][0]["guard"]["spans"]
    counted = [line for line in (await client.get("/metrics")).text.splitlines() if line.startswith(STEP)]
    assert counted == [f"{STEP} {len(REPLY) if window else 0}.0"]


@pytest.mark.parametrize("window", [32, 64, 500])
async def test_hazard_a_token_of_a_blocked_claim_leaves(serve, window):
    """Each claim once just over the threshold: nothing of its sentence, which is shorter than the window, leaves."""
    client = await serve(make_parts(reply=lambda _: REPLY), hold_tokens=window)
    spans = await spans_of(client)
    assert len(spans) == 4
    sentences = list(split_sentences(REPLY))
    seen = set()
    for span in spans:
        threshold = span["risk"] - 1e-9
        events = read_events((await client.post("/generate", json=held("block", threshold))).text)
        first = next(at for at, other in enumerate(spans) if other["risk"] >= threshold)
        left = text_of(events)
        assert REPLY.startswith(left)
        assert len(left) <= sentences[first][0], "a token of the sentence with the blocked claim has left"
        done, guard = events[-1][2], events[-2][2]
        assert (done["choices"][0]["text"], done["choices"][0]["finish_reason"]) == ("", "blocked")
        assert guard["action"] == "blocked"
        assert {token["text"] for token in guard["tokens"]} | {part["text"] for part in guard["spans"]} == {None}
        assert len(guard["tokens"]) < len(REPLY) or first == 3, "it goes on generating what nobody will see"
        seen.add(len(left) > 0)
    assert seen == {True, False}


@pytest.mark.parametrize("mode", ["hold", "json"])
async def test_only_the_deciding_claim_blocks_and_a_stream_as_the_json_does(serve, mode):
    """By `lexical` the first, by `claims` any; risks of the later claims are reported either way."""
    client = await serve(make_parts(reply=lambda _: REPLY))
    spans = await spans_of(client)
    first, highest = spans[0]["risk"], max(span["risk"] for span in spans)
    assert first < highest, "else the reply decides nothing here"
    for locator, threshold, action in (
        ("lexical", (first + highest) / 2, "none"),
        ("claims", (first + highest) / 2, "blocked"),
        ("lexical", first - 1e-9, "blocked"),
    ):
        body = held("block", threshold, locator)
        if mode == "json":
            answer = (await client.post("/generate", json={**body, "stream": False})).json()
            guard, text = answer["choices"][0]["guard"], answer["choices"][0]["text"]
            assert guard["risk"] == (first if locator == "lexical" else highest)
        else:
            events = read_events((await client.post("/generate", json=body)).text)
            guard, text = events[-2][2], text_of(events)
        assert guard["action"] == action
        assert (text == REPLY) is (action == "none")


@pytest.mark.parametrize("window", range(20, 44))
async def test_hazard_a_window_that_ends_inside_an_abbreviation_ends_a_sentence(serve, window):
    """A claim is judged in its whole sentence: what is over the threshold as a whole does not leave in halves."""
    reply = "Some say that the capital of France was named J. Smith Town by Dr. Brown, the king. It is old."
    client = await serve(make_parts(reply=lambda _: reply), hold_tokens=window)
    first, *_ = await spans_of(client)
    events = read_events((await client.post("/generate", json=held("block", first["risk"], "lexical"))).text)
    assert events[-2][2]["action"] == "blocked"
    assert len(text_of(events)) < reply.index("It is old")


async def test_a_window_without_a_claim_is_judged_as_a_whole(serve):
    """No sentence ends within the window: its tokens together decide."""
    reply = "and so on and so forth " * 4
    client = await serve(make_parts(reply=lambda _: reply), hold_tokens=10)
    low, high = [
        read_events((await client.post("/generate", json=held("block", threshold))).text) for threshold in (1e-6, 0.999)
    ]
    assert text_of(low) == ""
    assert low[-2][2]["action"] == "blocked"
    assert text_of(high) == reply


@pytest.mark.parametrize("policy", ["abstain", "suppress"])
async def test_policies_that_answer_with_another_text_hold_all_of_it(serve, policy):
    client = await serve(make_parts(reply=lambda _: REPLY), hold_tokens=4)
    first, *_ = await spans_of(client)
    events = read_events((await client.post("/generate", json=held(policy, first["risk"] - 1e-9))).text)
    assert text_of(events) == ("" if policy == "abstain" else REPLY)
    assert events[-2][2]["action"] != "none"


@pytest.mark.parametrize("fault", ["nan_scores", "missing_rows"])
async def test_hazard_what_could_not_be_scored_leaves_a_held_stream(serve, fault):
    parts = make_parts(reply=lambda _: REPLY)
    client = await serve(parts, hold_tokens=4)
    parts.engine.fault, parts.engine.fault_at = fault, 30
    events = read_events((await client.post("/generate", json=held("annotate", 0.5))).text)
    assert events[-1][2]["error"]["code"] == "guard_unavailable"
    assert len(text_of(events)) < 32
    body = held("annotate", 0.5)
    body["guard"]["on_error"] = "fail_open"
    events = read_events((await client.post("/generate", json=body)).text)
    assert text_of(events) == REPLY
    assert (events[-2][2]["status"], events[-2][2]["risk"]) == ("failed", None)


@pytest.mark.parametrize("window", [1, 5, 32])
@pytest.mark.parametrize("position", ["own", "predicting"])
async def test_no_token_waits_longer_than_the_window(serve, window, position):
    parts = make_parts(position=position, reply=lambda _: REPLY)
    client = await serve(parts, hold_tokens=window)
    lifecycle = client._transport.app.state.lifecycle
    body = GenerateRequest.model_validate(held("annotate", 0.5))
    with lifecycle.serving(NO_LIMITS) as served:
        (plan,) = plan_choices(served, body, "r")
        gate, waits, steps = HoldGate(served, plan.guard, window), [], []
        original = gate.offer

        def offer(transcript: Transcript) -> None:
            original(transcript)
            waits.append(transcript.n_ready - gate.released)
            steps.append(gate.released)

        gate.offer = offer
        transcript = Transcript(served.engine.tokenizer, (), position)
        shown = []
        result = await generate(served, plan, 1.0, Metrics(), lambda at, *_: shown.append(at))
        request = EngineRequest("r", plan.prompt_ids, plan.max_tokens, heads=served.heads)
        async for step in served.engine.generate(request, RequestTiming()):
            transcript.add(step)
            offer(transcript)
            if transcript.finish_reason:
                break
    assert max(waits) < window
    assert steps == sorted(steps)
    assert shown == list(range(result.n_shown))
    assert result.n_shown == steps[-1] > 0
