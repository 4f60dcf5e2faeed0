"""1,000 requests to a server process over 50 switches: none fails, and each has the numbers of the probe it names."""

import asyncio
import math
from collections import Counter

import httpx
import pytest

from probes.parts import measure_parts
from probes.positions import align_rows
from service.engines.fake import fake_cett, fake_stream, fake_tokenizer
from service.engines.fake_probe import fake_artifact
from tests.probe_library import SETTINGS, activate, turned, write_library
from tests.running_service import running_service

pytestmark = pytest.mark.slow
REQUESTS, SWITCHES, CLIENTS = 1000, 50, 8


def recompute(tokenizer, prompt, answer, probe):
    """Risk of a response by the fake engine's formulas alone, token by token."""
    choice = answer["choices"][0]
    tokens = choice["guard"]["tokens"]
    ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    ids = ids if isinstance(ids, list) else ids["input_ids"]
    assert len(ids) == answer["usage"]["prompt_tokens"]
    fed = [ids[-1], *(token["id"] for token in tokens)]
    rows = [
        (
            float(probe.weights @ fake_cett(token, len(ids) - 1 + at, len(probe.neurons))) + probe.intercept,
            float(probe.residual.weights @ fake_stream(token, len(ids) - 1 + at)) + probe.residual.intercept,
        )
        for at, token in enumerate(fed)
    ]
    logits, residuals = zip(*align_rows(rows, len(tokens), probe.position), strict=True)
    signals = [token["logprob"] for token in tokens], [token["entropy"] for token in tokens]
    return probe.risk_model.risk(measure_parts(logits, *signals, residuals))


async def test_hazard_a_response_mixes_two_probes(tmp_path):
    first, tokenizer = fake_artifact(locator="response"), fake_tokenizer()
    probes = {artifact.probe.version: artifact.probe for artifact in (first, turned(first, "1"))}
    folder = write_library(tmp_path, first, turned(first, "1"))
    seen, switched, waiting = Counter(), 0, iter(range(REQUESTS))

    async def keep_asking(client):
        for at in waiting:
            prompt = f"Question {at % 90}"
            body = {"prompt": prompt, "sampling": {"max_tokens": 6}, "guard": {"return_tokens": True}}
            answer = await client.post("/generate", json=body)
            assert answer.status_code == 200, answer.text
            probe = probes[answer.json()["choices"][0]["guard"]["probe"]["version"]]
            risk = recompute(tokenizer, prompt, answer.json(), probe)
            assert math.isclose(answer.json()["risk"], risk, abs_tol=1e-5), probe.version
            seen[probe.version] += 1

    async def keep_switching(client):
        nonlocal switched
        while switched < SWITCHES:
            while sum(seen.values()) < switched * REQUESTS // (SWITCHES + 1):  # over the whole of the run
                await asyncio.sleep(0.001)
            answer = await activate(client, probes["1" if switched % 2 == 0 else "0"])
            assert answer.status_code == 200, answer.text
            switched += 1

    settings = {"probe": "fake@0", "probes_dir": folder, "fake_step_s": 0.0005, **SETTINGS}
    with running_service(tmp_path, **settings) as service:
        async with httpx.AsyncClient(base_url=service.address, timeout=30) as client:
            await asyncio.gather(keep_switching(client), *(keep_asking(client) for _ in range(CLIENTS)))
    assert (sum(seen.values()), switched) == (REQUESTS, SWITCHES)
    assert min(seen["0"], seen["1"]) > REQUESTS // 10
