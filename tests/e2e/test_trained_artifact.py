"""The artifact of a real run: found, bound to the default model, and served as it was fitted."""

import json

import numpy as np
import pytest
import torch

from offline.extraction.passage_reader import SIGNALS
from probes.artifact import golden_error, load_artifact
from probes.fingerprint import check_model, fingerprint_model
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, resolve_model
from probes.prompts import ANSWER_ONLY
from probes.registry import find_probe
from tests.e2e.training import read_rows
from tests.serving import becomes, serve_in_process
from tests.unit.probes.artifacts import score_golden

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return load_model(resolve_model(DEFAULT_MODEL), dtype="float32", device="cpu")


def test_the_artifact_is_found_and_belongs_to_the_default_model(trained, model):
    tokenizer = load_tokenizer(resolve_model(DEFAULT_MODEL))
    fingerprint = fingerprint_model(model, tokenizer)
    artifact = load_artifact(trained.artifact)
    for reference in ("default", f"{DEFAULT_MODEL}@1.0.0", str(trained.artifact)):
        assert find_probe(reference, fingerprint, trained.out / "artifact").sha256 == artifact.sha256
    assert find_probe("default", fingerprint).sha256 != artifact.sha256  # the shipped one
    assert json.loads((trained.out / "artifact.manifest.json").read_text())["sha256"] == artifact.sha256
    with torch.inference_mode():
        check_model(artifact.model, artifact.probe, model, tokenizer)
    assert 0 < len(artifact.probe.h_neurons) <= 46
    assert artifact.card["training"]["sources"] == ["madeup", "world"]
    assert artifact.card["auroc"][0] > 0.6


def test_the_golden_trace_is_what_plain_passes_of_the_model_give(trained, model):
    artifact = load_artifact(trained.artifact)
    golden = artifact.golden
    scores = score_golden(model, artifact.probe, (golden.prompt_ids, golden.response_ids))
    assert len({tuple(row[:, 0].tolist()) for row in scores}) > 1
    assert golden_error(artifact, scores) < 2e-3
    other = "predicting" if artifact.probe.position == "own" else "own"
    shifted = score_golden(model, artifact.probe, (golden.prompt_ids, golden.response_ids), rule=other)
    assert golden_error(artifact, shifted) > 0.5


def read_residual_logits(out, probe):
    """Of every response, from the streams that were kept; zeros where the probe has no residual head."""
    streams = np.load(out / "residuals" / ("answer.npy" if probe.position == "own" else "answer_ahead.npy"))
    if probe.residual is None:
        return np.zeros(len(streams))
    layers = json.loads((out / "residuals" / "settings.json").read_text())["layers"]
    return streams[:, layers.index(probe.residual.layer)] @ probe.residual.weights + probe.residual.intercept


async def test_a_service_on_the_artifact_scores_the_answers_as_they_were_fitted(trained):
    probe = load_artifact(trained.artifact).probe
    labels = read_rows((trained.out / "labels.jsonl").read_bytes())
    questions = {row["question_id"]: row for row in read_rows((trained.out / "questions.jsonl").read_bytes())}
    answers = {row["question_id"]: row for row in read_rows((trained.out / "greedy.jsonl").read_bytes())}
    features = np.load(trained.out / "features" / ("answer.npy" if probe.position == "own" else "answer_ahead.npy"))
    fitted = features[:, probe.neurons.flat].astype(np.float64) @ probe.weights + probe.intercept
    rows = list(dict.fromkeys(row["question_id"] for row in labels))
    assert len(rows) == len(fitted)
    settings = {"engine": "transformers", "model": DEFAULT_MODEL, "probe": str(trained.artifact), "device": "cpu"}
    async with serve_in_process(None, **settings) as client:
        await becomes(client, 200, seconds=120)  # the golden trace has passed
        logits, risks = [], []
        for key in rows[:20]:
            prompt = questions[key]["question"] + ANSWER_ONLY
            body = {"prompt": prompt, "response_token_ids": answers[key]["token_ids"]}
            answer = await client.post("/score", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["text"] == answers[key]["text"]
            logits.append(answer.json()["guard"]["logit"])
            risks.append(answer.json()["risk"])
        answer = await client.post("/generate", json={"prompt": prompt, "sampling": {"max_tokens": 12}})
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["guard"]["status"] == "scored"
    assert choice["text"] == answers[key]["text"]
    assert choice["guard"]["logit"] == pytest.approx(logits[-1], abs=1e-4)
    assert 0 < answer.json()["risk"] < 1
    assert np.std(logits) > 0.1
    assert logits == pytest.approx(fitted[:20], abs=0.02 * np.std(fitted))  # features are kept in half precision
    signals = np.load(trained.out / "features" / "signals.npy")[:20, : len(SIGNALS)]  # of the answer tokens
    free = [dict(zip(SIGNALS, row, strict=True)) for row in signals]
    parts = [
        {**row, "cett": cett, "residual": stream, "length": row["n_tokens"]}
        for row, cett, stream in zip(free, fitted, read_residual_logits(trained.out, probe), strict=False)
    ]
    assert risks == pytest.approx([probe.risk_model.risk(row) for row in parts], abs=0.02)
