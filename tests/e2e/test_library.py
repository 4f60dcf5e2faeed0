"""Every probe that ships, beside the default one, is served over its model by its name alone."""

import os

import httpx
import pytest

from probes.artifact import load_artifact
from probes.models import DEFAULT_MODEL
from probes.registry import list_artifacts
from tests.running_service import running_service

pytestmark = pytest.mark.slow
TOO_LARGE = "qwen2.5-coder-1.5b-instruct"
OTHERS = {artifact.model.name: artifact for artifact in map(load_artifact, list_artifacts())}
del OTHERS[DEFAULT_MODEL]
ANSWER_ONLY = "Respond with the answer only, without any explanation."


@pytest.mark.parametrize("model", OTHERS)
def test_the_model_is_served_with_its_probe_and_tells_a_capital_from_an_invented_novel(model, tmp_path):
    if model == TOO_LARGE and not os.environ.get("HGUARD_TEST_LARGE"):
        pytest.skip("too large for CI; HGUARD_TEST_LARGE=1 runs it")
    with running_service(tmp_path, engine="transformers", device="cpu", model=model) as service:
        probe = httpx.get(f"{service.address}/probes").json()["probes"][0]
        guards = []
        for question in ("What is the capital of France?", "Who wrote the novel The Glass Cartographer of Venn?"):
            body = {"prompt": f"{question} {ANSWER_ONLY}", "sampling": {"stop": ["\n"]}}
            (choice,) = httpx.post(f"{service.address}/generate", json=body, timeout=60).json()["choices"]
            guards.append((choice["text"], choice["guard"]))
    artifact = OTHERS[model]
    assert (probe["name"], probe["version"], probe["sha256"]) == (
        artifact.probe.name,
        artifact.probe.version,
        artifact.sha256,
    )
    (known, knowing), (_, guessing) = guards
    assert "Paris" in known
    assert knowing["status"] == guessing["status"] == "scored"
    assert 0 < knowing["risk"] < guessing["risk"] < 1
    assert knowing["out_of_domain"] is False
