"""A scorer that raises or is late: never a clean answer, always counted, and it holds up nobody else (real server)."""

import asyncio
import time

import httpx
import pytest

from service.guard.judge import judge
from tests.serving import QUESTION, make_parts, read_events, serve_on_port

ASKED = {"prompt": QUESTION, "guard": {"return_tokens": True}}
SLOW_SECONDS = 1.0


@pytest.fixture
def parts():
    return make_parts(locator="response")


def fails(*_, **__):
    raise RuntimeError("a defect of the scorer")


def is_slow(*given, **options):
    time.sleep(SLOW_SECONDS)
    return judge(*given, **options)


async def counted(client, name, reason):
    for line in (await client.get("/metrics")).text.splitlines():
        if line.startswith(f'hguard_{name}{{reason="{reason}"}} '):
            return float(line.split()[-1])
    return 0.0


@pytest.mark.parametrize("name", ["judge", "score_token", "RunningRisk"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_scorer_that_raises_is_a_failure_and_no_defect(parts, monkeypatch, name, stream):
    monkeypatch.setattr(f"service.choices.judging.{name}", fails)
    policy = "stop" if name == "RunningRisk" else "annotate"
    asked = {**ASKED, "stream": stream, "guard": {"policy": policy}}
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            closed = await client.post("/generate", json=asked)
            opened = await client.post(
                "/generate", json={**asked, "guard": {"policy": policy, "on_error": "fail_open"}}
            )
            failures, opens = [
                await counted(client, name, "scorer_error") for name in ("scoring_failures_total", "fail_open_total")
            ]
    if not stream and name == "score_token":
        assert closed.json()["risk"] is not None  # nobody asked it: a JSON answer's tokens are scored by `judge`
        return
    assert (failures, opens) == (2, 1)
    if stream:
        assert read_events(closed.text)[-1][2]["error"]["code"] == "guard_unavailable"
        guard = next(data for event, _, data in read_events(opened.text) if event == "guard")
        assert read_events(opened.text)[-1][0] == "done"
    else:
        assert (closed.status_code, closed.json()["error"]["code"]) == (503, "guard_unavailable")
        guard = opened.json()["choices"][0]["guard"]
    assert (guard["status"], guard["risk"], guard["action"]) == ("failed", None, "none")


@pytest.mark.parametrize(
    ("path", "body"), [("/generate", ASKED), ("/score", {"prompt": QUESTION, "response": "Paris"})]
)
async def test_a_scorer_that_is_late_is_a_failure_and_holds_up_no_health_check(parts, monkeypatch, path, body):
    monkeypatch.setattr("service.choices.judging.judge", is_slow)
    waits = []
    with serve_on_port(parts, score_timeout_s=SLOW_SECONDS / 4) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            began = time.perf_counter()
            asking = asyncio.ensure_future(client.post(path, json=body))
            while not asking.done():
                asked = time.perf_counter()
                assert (await client.get("/livez")).status_code == 200
                waits.append(time.perf_counter() - asked)
            answer = await asking
            assert time.perf_counter() - began < SLOW_SECONDS
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guard_unavailable")
            assert await counted(client, "scoring_failures_total", "deadline") == 1
            assert await counted(client, "fail_open_total", "deadline") == 0
    assert sorted(waits)[len(waits) // 2] < 0.05


async def test_a_suppressed_answer_that_cannot_be_scored_is_not_preferred_but_counted(parts, monkeypatch):
    calls = []

    def second_fails(*given, **options):
        calls.append(1)
        return fails() if len(calls) == 2 else judge(*given, **options)

    monkeypatch.setattr("service.choices.judging.judge", second_fails)
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            asked = {"prompt": QUESTION, "guard": {"policy": "suppress", "threshold": 0.01}}
            guard = (await client.post("/generate", json=asked)).json()["choices"][0]["guard"]
            assert await counted(client, "scoring_failures_total", "scorer_error") == 1
    assert (guard["status"], guard["action"]) == ("scored", "flagged")
    assert (guard["suppressed"]["kept"], guard["suppressed"]["risk"]) == ("baseline", None)
