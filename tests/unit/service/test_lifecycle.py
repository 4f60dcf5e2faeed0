"""What is not proved is not served, at the start and later, and /readyz says why."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from probes.fingerprint import ModelMismatchError
from service.engines.base import EngineError, RequestTooLongError
from service.lifecycle import Parts
from tests.probe_library import HEADERS, SETTINGS
from tests.serving import QUESTION, becomes, make_parts, serve_in_process


async def refuses(serve, parts, reason, **settings):
    client = await serve(parts, **settings)
    ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["status"] == "not_ready"
    assert any(reason in line for line in ready.json()["reasons"])
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/version")).json()["engine"] == "fake"
    for path, body in (("/generate", {"prompt": QUESTION}), ("/score", {"prompt": QUESTION, "response": "Paris"})):
        answer = await client.post(path, json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "not_ready"
    return (await client.get("/metrics")).text


async def test_ready_once_the_golden_trace_has_passed(serve):
    client = await serve()
    assert (await client.get("/readyz")).json() == {"status": "ready", "reasons": []}
    metrics = (await client.get("/metrics")).text
    assert "hguard_golden_trace_ok 1.0" in metrics
    assert 'hguard_probe_info{name="fake"' in metrics


@pytest.mark.parametrize("fault", ["missing_rows", "nan_scores", "crash"])
async def test_a_tap_that_does_not_work_is_found_before_the_first_request(serve, fault):
    metrics = await refuses(serve, make_parts(fault=fault), "golden_trace:")
    assert "hguard_golden_trace_ok 0.0" in metrics
    assert 'hguard_probe_loads_total{result="refused"} 1.0' in metrics


async def test_scores_of_another_row_are_found_by_the_golden_trace(serve):
    parts = make_parts()
    golden = parts.artifact.golden
    shifted = replace(golden, scores=(np.roll(golden.scores[0], 1),))
    await refuses(serve, replace(parts, artifact=replace(parts.artifact, golden=shifted)), "standard deviations")


async def test_one_replica_that_scores_wrongly_is_found(serve, monkeypatch):
    parts = make_parts()
    score = parts.engine.score

    async def audit(prompt_ids, response_ids, *, heads):
        right = await score(prompt_ids, response_ids, heads=heads)
        return right, replace(right, rows=right.rows[::-1]), right

    monkeypatch.setattr(parts.engine, "audit", audit)
    await refuses(serve, parts, "standard deviations")


async def test_an_artifact_without_a_golden_trace_proves_nothing(serve):
    parts = make_parts()
    golden = replace(parts.artifact.golden, prompt_ids=(), response_ids=(), scores=())
    await refuses(serve, replace(parts, artifact=replace(parts.artifact, golden=golden)), "no golden trace")


async def test_a_probe_of_another_model_is_refused(serve, monkeypatch):
    def differs(*_):
        raise ModelMismatchError("widths is (8, 8) there and (9, 9) in the loaded model")

    monkeypatch.setattr("service.probe_roles.slot.check_probe", differs)
    await refuses(serve, make_parts(), "probe: widths is")


async def test_a_locator_of_a_later_version_is_refused(serve):
    await refuses(serve, make_parts(locator="oracle"), "locator 'oracle'")


async def test_an_engine_that_cannot_be_had_is_a_reason(monkeypatch):
    monkeypatch.setattr("service.engines.registry._has_vllm", lambda: False)
    async with serve_in_process(None, engine="vllm") as client:
        await becomes(client, 503, "HGUARD_ENGINE=vllm")
        assert (await client.get("/version")).json()["engine"] == "vllm"
        assert (await client.get("/livez")).status_code == 200


async def test_while_the_model_loads_every_route_says_so(monkeypatch):
    parts, may_load = make_parts(), threading.Event()

    def load(_):
        assert may_load.wait(5)
        return parts.engine

    monkeypatch.setattr("service.lifecycle.load_engine", load)
    async with serve_in_process(None, **SETTINGS) as client:
        await becomes(client, 503, "model: is being loaded")
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/version")).json()["device"] is None
        assert (await client.get("/probes")).json() == {"probes": []}
        assert (await gauge(client, "starting"), await gauge(client, "ready")) == (1, 0)
        for path in ("/generate", "/score", "/v1/chat/completions", "/probes/fake/activate", "/probes/reload"):
            answer = await client.post(path, json={}, headers=HEADERS)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready"), path
            assert "is being loaded" in answer.json()["error"]["message"]
        may_load.set()
        await becomes(client, 200)
        assert (await gauge(client, "starting"), await gauge(client, "ready")) == (0, 1)
        assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 200


async def test_the_engine_is_closed_when_the_application_ends(monkeypatch):
    closed = []

    class Closing(type(make_parts().engine)):
        async def close(self):
            closed.append(True)

    async with serve_in_process(Parts(Closing(), make_parts().artifact)):
        assert not closed
    assert closed


async def gauge(client, name):
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"hguard_{name} ")))


ERRORS = [
    RequestTooLongError("90 tokens are more than the 64"),
    KeyError("x"),
    ValueError("no id"),
    EngineError("dead"),
]


def failing(error):
    async def audit(*_, **__):
        raise error

    return audit


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_hazard_an_error_that_nobody_foresaw_ends_the_start(serve, monkeypatch, error):
    parts = make_parts()
    monkeypatch.setattr(parts.engine, "audit", failing(error))
    await refuses(serve, parts, f"golden_trace: {error}")


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_hazard_the_canary_dies_and_looks_healthy(serve, monkeypatch, error):
    parts = make_parts()
    client = await serve(parts, canary_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "audit", failing(error))
        await becomes(client, 503, f"golden_trace: {error}")
        assert await gauge(client, "golden_trace_ok") == 0
        assert (await client.post("/generate", json={"prompt": QUESTION})).json()["error"]["code"] == "not_ready"
    await becomes(client, 200)
    assert await gauge(client, "golden_trace_ok") == 1
    assert 'hguard_probe_loads_total{result="refused"} 0.0' in (await client.get("/metrics")).text


async def test_hazard_a_canary_that_starves_looks_healthy(serve):
    parts = make_parts()
    client = await serve(parts, canary_s=0.01, canary_timeout_s=0.05)
    parts.engine.fault = "hang"
    await becomes(client, 503, "not scored within 0.05 s")
    assert await gauge(client, "golden_trace_ok") == 0
    failed = time.time()
    assert 0 < await gauge(client, "golden_trace_last_ok_timestamp_seconds") < failed
    parts.engine.fault = "none"
    await becomes(client, 200)
    assert await gauge(client, "golden_trace_last_ok_timestamp_seconds") > failed
    assert parts.engine.running == 0


async def test_hazard_an_engine_that_hangs_at_the_start_says_nothing(serve):
    await refuses(serve, make_parts(fault="hang"), "HGUARD_CANARY_TIMEOUT_S", canary_timeout_s=0.01)


async def test_an_engine_that_cannot_start_is_a_reason(serve, monkeypatch):
    parts = make_parts()

    async def start(_expected):
        raise OSError("no such device")

    monkeypatch.setattr(parts.engine, "start", start)
    await refuses(serve, parts, "model: no such device")
