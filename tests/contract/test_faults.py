"""A response that cannot be scored never looks like a clean one; what the operator chose happens, and is counted."""

import re

import pytest

from tests.serving import QUESTION, make_parts, read_events

FAULTS = [("missing_rows", "missing_rows"), ("nan_scores", "not_finite"), ("short_rows", "scorer_error")]


async def start(serve, fault, **settings):
    """A fault that begins after start-up."""
    parts = make_parts(locator="response")
    client = await serve(parts, **settings)
    parts.engine.fault = fault
    return client


def body(**guard):
    return {"prompt": QUESTION, "guard": {"return_tokens": True, **guard}}


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
async def test_fail_closed_is_an_error(serve, fault, reason):
    client = await start(serve, fault)
    answer = await client.post("/generate", json=body())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "guard_unavailable"
    events = read_events((await client.post("/generate", json={**body(), "stream": True})).text)
    assert [name for name, _, _ in events if name in ("guard", "done", "error")] == ["error"]
    assert events[-1][2]["error"]["code"] == "guard_unavailable"
    held = await client.post("/generate", json={**body(policy="block"), "stream": True, "stream_mode": "hold"})
    assert [name for name, _, _ in read_events(held.text)] == ["start", "error"]
    metrics = (await client.get("/metrics")).text
    assert f'hguard_scoring_failures_total{{reason="{reason}"}} 3.0' in metrics
    assert not re.search(r"hguard_fail_open_total\{.*\} [^0]", metrics)


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
@pytest.mark.parametrize("by_request", [True, False])
async def test_fail_open_serves_with_no_risk_and_says_so(serve, fault, reason, by_request):
    client = await start(serve, fault, **({} if by_request else {"on_error": "fail_open"}))
    asked = body(on_error="fail_open") if by_request else body()
    answer = (await client.post("/generate", json=asked)).json()
    (choice,) = answer["choices"]
    guard = choice["guard"]
    assert choice["text"] == "The answer is Paris."
    assert (answer["risk"], guard["risk"], guard["logit"], guard["status"]) == (None, None, None, "failed")
    assert guard["tokens"][5]["risk"] is None
    events = read_events((await client.post("/generate", json={**asked, "stream": True})).text)
    assert events[-1][0] == "done"
    assert (events[-2][2]["status"], events[-2][2]["risk"]) == ("failed", None)
    metrics = (await client.get("/metrics")).text
    assert f'hguard_fail_open_total{{reason="{reason}"}} 2.0' in metrics
    assert "hguard_scored_responses_total 0.0" in metrics


async def test_a_crash_in_a_stream_ends_it_with_one_error(serve):
    client = await start(serve, "crash")
    events = read_events((await client.post("/generate", json={**body(), "stream": True})).text)
    assert [name for name, _, _ in events if name in ("done", "error")] == ["error"]
    assert events[-1][0] == "error"
    assert events[-1][2]["error"]["code"] == "engine_error"


async def test_a_crash_of_one_choice_ends_the_others(serve):
    parts = make_parts(locator="response")
    client = await serve(parts)
    parts.engine.fault = "crash"
    asked = {**body(), "sampling": {"n": 4}}
    answer = await client.post("/generate", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert parts.engine.running == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan_scores", "not_finite"),
        ("short_rows", "scorer_error"),
        ("missing_rows", "engine_error"),
        ("crash", "engine_error"),
    ],
)
async def test_score_fails_in_words(serve, fault, reason):
    client = await start(serve, fault)
    asked = {"prompt": QUESTION, "response": "The answer is Paris."}
    closed = await client.post("/score", json=asked)
    assert (closed.status_code, closed.json()["error"]["code"]) == (503, "guard_unavailable")
    opened = await client.post("/score", json={**asked, "guard": {"on_error": "fail_open", "return_tokens": True}})
    assert opened.status_code == 200
    assert (opened.json()["risk"], opened.json()["guard"]["status"]) == (None, "failed")
    assert opened.json()["text"] == asked["response"]
    metrics = (await client.get("/metrics")).text
    assert f'hguard_scoring_failures_total{{reason="{reason}"}} 2.0' in metrics
    assert f'hguard_fail_open_total{{reason="{reason}"}} 1.0' in metrics
    assert "hguard_scored_responses_total 0.0" in metrics


async def test_a_hanging_engine_meets_the_deadline(serve):
    client = await start(serve, "hang")
    answer = await client.post("/generate", json={**body(), "timeout_s": 0.05})
    assert answer.status_code == 504


async def test_no_claim_is_no_answer_under_every_policy(serve):
    client = await serve(make_parts(reply=lambda _: "I don't know."))
    for policy in ("annotate", "flag", "block", "abstain", "suppress", "stop"):
        answer = (await client.post("/generate", json=body(policy=policy, threshold=0.01))).json()
        guard = answer["choices"][0]["guard"]
        assert (answer["risk"], guard["status"], guard["action"]) == (None, "no_answer", "none")
        assert answer["choices"][0]["text"] == "I don't know."
