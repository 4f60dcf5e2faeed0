"""The service over vLLM while clients leave, while a probe is audited and while probes change."""

import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from service.app import create_app
from service.lifecycle import Parts
from service.settings import Settings
from tests.contract.switching import check_switches
from tests.probe_library import activate, read_metrics, rollback, turned
from tests.serving import serve_in_process, wait_until
from tests.vllm.runs import QUESTIONS
from tests.vllm.served import RISK_TOLERANCE, Started, body, is_near, post

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("stream", [True, False])
async def test_hazard_a_client_that_leaves_goes_on_generating(address, engine, client, stream):
    story = "Write a long story about a lighthouse keeper and the sea."  # greedy: a drawn answer may end at once
    sent = body(story, sampling={"max_tokens": 1500, "n": 2}, stream=stream)

    async def leave():
        async with httpx.AsyncClient(base_url=address, timeout=300) as leaving:
            if stream:
                async with leaving.stream("POST", "/generate", json=sent) as answer:
                    lines = answer.aiter_lines()
                    while not (await anext(lines)).startswith("event: token"):
                        pass
                    await asyncio.Event().wait()
            await leaving.post("/generate", json=sent)

    leaving = asyncio.create_task(leave())
    await wait_until(lambda: engine.running == 2, 60)
    await asyncio.sleep(0.5)
    assert engine.running == 2
    leaving.cancel()
    await wait_until(lambda: engine.running == 0)
    for _ in range(100):
        metrics = (await client.get("/metrics")).text
        if "hguard_requests_running 0.0" in metrics:
            break
        await asyncio.sleep(0.02)
    assert "hguard_requests_running 0.0" in metrics
    assert f"hguard_client_disconnects_total {1.0 if stream else 2.0}" in metrics
    assert (await post(client, "/generate", body()))["choices"][0]["guard"]["status"] == "scored"


async def test_hazard_requests_are_answered_before_the_golden_trace(engine, artifact):
    audited, seen = [], []
    started = Started(engine)
    audit = engine.audit

    async def watched(prompt_ids, response_ids, **options):
        seen.append(app.state.lifecycle.describe())
        audited.append((prompt_ids, response_ids))
        return await audit(prompt_ids, response_ids, **options)

    started.audit = watched
    app = create_app(Settings(engine="fake"), Parts(started, artifact))
    async with app.router.lifespan_context(app):
        assert app.state.lifecycle.describe() == []
    golden = artifact.golden
    assert audited == list(zip(golden.prompt_ids, golden.response_ids, strict=True))
    assert all(any("golden_trace" in reason for reason in reasons) for reasons in seen)

    shifted = replace(golden, scores=tuple(np.roll(scores, 1) for scores in golden.scores))
    async with serve_in_process(Parts(Started(engine), replace(artifact, golden=shifted))) as client:
        assert "standard deviations" in (await client.get("/readyz")).text
        assert (await client.post("/generate", json=body())).status_code == 503


async def test_hazard_a_response_mixes_two_probes(client, artifact):
    await check_switches(client, artifact, turned(artifact, "turned"), is_near)


async def test_shadow_and_canary_stand_beside_the_active_probe(client, artifact):
    """All banks are in use: the shadow's risks are those of serving it, and a switch does not wait for ever."""
    other = turned(artifact, "turned").probe
    name, prompts = other.name, QUESTIONS[:3]

    async def ask_all(**more):
        return [(await post(client, "/generate", body(prompt, **more)))["choices"][0]["guard"] for prompt in prompts]

    assert (await activate(client, artifact.probe)).status_code == 200
    alone = await ask_all()
    assert (await activate(client, other, mode="shadow")).status_code == 200
    before = await read_metrics(client)
    assert is_near(await ask_all(), alone)
    after = await read_metrics(client)
    assert (await activate(client, other, mode="canary", percent=50)).status_code == 200
    served = await ask_all(guard={"probe": f"{name}@turned"})
    assert {guard["probe"]["version"] for guard in served} == {"turned"}
    series = f'hguard_response_risk_sum{{probe="{name}@turned",role="shadow"}}'
    seen = after[series] - before.get(series, 0.0)
    assert seen == pytest.approx(sum(guard["risk"] for guard in served), abs=len(prompts) * RISK_TOLERANCE)
    async with asyncio.timeout(60):
        assert (await activate(client, artifact.probe)).status_code == 200
    assert is_near(await ask_all(guard={"probe": f"{name}@{artifact.probe.version}"}), alone)
    for mode in ("shadow", "canary"):
        assert (await rollback(client, name, mode=mode)).status_code == 200
