"""What a user runs: `python offline/train_probe.py` with the real default model, killed twice, then to the end.

The questions are of two kinds that the default model often knows, so that 140 of them give enough right answers to fit.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offline import train_probe
from offline.madeup_questions import MADEUP_EACH, make_madeup_questions
from offline.passage_reader import SIGNALS
from offline.world_questions import make_world_questions
from probes.artifact import golden_error, load_artifact
from probes.fingerprint import check_model, fingerprint_model
from probes.models import DEFAULT_MODEL, load_model, load_tokenizer, resolve_model
from probes.prompts import ANSWER_ONLY
from probes.registry import find_probe
from tests.serving import serve_in_process
from tests.unit.probes.artifacts import score_golden

pytestmark = pytest.mark.slow

ROOT = Path(train_probe.__file__).parents[1]
LIMIT = 140
FEW_ROWS = 10  # that a stage has finished when it is killed
TEXT_STAGES = ("questions", "greedy", "samples", "verdicts", "labels", "spans")
STAGES = (*TEXT_STAGES, "features", "selection", "selection-question", "fit", "calibrate", "evaluate", "artifact")


def write_questions(path, questions):
    rows = [
        {"id": q.question_id.partition("/")[2], "question": q.question, "answers": q.answers, "relation": q.group}
        for q in questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def arguments_of(folder):
    known = [q for q in make_world_questions("world") if q.group in ("capital", "symbol")]
    made_up = list(make_madeup_questions("madeup", 0))[:: 2 * MADEUP_EACH]
    files = [write_questions(folder / "world.jsonl", known), write_questions(folder / "madeup.jsonl", made_up)]
    wanted = {"model": DEFAULT_MODEL, "limit": LIMIT, "samples": 2, "agreement": 0.5, "max-tokens": 12}
    wanted |= {"unfiltered": 60, "batch-rows": 32, "device": "cpu", "out": folder / "run"}
    return ["--questions", *files, *(str(part) for name, value in wanted.items() for part in (f"--{name}", value))]


def start(arguments, log, **environment):
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "offline/train_probe.py", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run(arguments, log, **environment):
    """Exit status and output of a run that is left alone."""
    running = start(arguments, log, **environment)
    try:
        status = running.wait(1800)
    finally:
        running.kill()
    return status, read_log(log)


def kill_during(stage, out, arguments, log):
    """SIGKILL a run when a stage has finished a few rows; returns the whole lines that it leaves, and its output."""
    path = out / f"{stage}.jsonl"
    running = start(arguments, log)
    try:
        deadline = time.monotonic() + 900
        while not path.exists() or path.read_bytes().count(b"\n") < FEW_ROWS:
            assert running.poll() is None, read_log(log)
            assert time.monotonic() < deadline, read_log(log)
            time.sleep(0.002)
    finally:
        running.kill()
    assert running.wait(60) == -signal.SIGKILL
    assert not (out / f"{stage}.manifest.json").exists()  # or it was not killed in the middle
    left = path.read_bytes()
    return left[: left.rfind(b"\n") + 1], read_log(log)


def read_log(log):
    """A run's output, every state of a progress bar on a line of its own."""
    return log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")


def read_rows(data):
    return [json.loads(line, parse_constant=pytest.fail) for line in data.decode().split("\n")[:-1]]


def keys_of(rows):
    return [(row["question_id"], row["sample"]) for row in rows]


def snapshot(out):
    """Bytes and time of every file."""
    return {
        str(path.relative_to(out)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was killed in the greedy pass, killed again in the samples, and then ended."""
    folder = tmp_path_factory.mktemp("train")
    arguments, out, left, logs = arguments_of(folder), folder / "run", {}, {}
    for stage in ("greedy", "samples"):
        left[stage], logs[stage] = kill_during(stage, out, arguments, folder / f"{stage}.log")
    status, logs["whole"] = run(arguments, folder / "whole.log")
    assert status == 0, logs["whole"]
    artifact = out / "artifact" / DEFAULT_MODEL / "1.0.0"
    return SimpleNamespace(out=out, arguments=arguments, left=left, logs=logs, artifact=artifact)


@pytest.fixture(scope="module")
def model():
    return load_model(resolve_model(DEFAULT_MODEL), dtype="float32", device="cpu")


@pytest.fixture
def nothing_to_load(tmp_path):
    """An environment in which the default model is not there and cannot be had."""
    return {"HGUARD_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("stage", ["greedy", "samples"])
def test_a_kill_in_the_middle_of_a_stage_loses_no_row_and_draws_none_again(trained, stage):
    data = (trained.out / f"{stage}.jsonl").read_bytes()
    finished, rows = read_rows(trained.left[stage]), read_rows(data)
    assert FEW_ROWS <= len(finished) < len(rows)
    assert data.startswith(trained.left[stage])
    assert max(Counter(keys_of(rows)).values()) == 1
    ids = [row["question_id"] for row in read_rows((trained.out / "questions.jsonl").read_bytes())]
    if stage == "greedy":
        assert sorted(keys_of(rows)) == sorted((key, 0) for key in ids)
        assert f"| {len(finished)}/{len(rows)} [" in trained.logs["samples"]  # the bar begins where the kill was
        assert "questions: complete" in trained.logs["samples"]
    else:
        assert Counter(sample for _, sample in keys_of(rows)) == {1: len(rows) / 2, 2: len(rows) / 2}
        assert f"| 0/{len(rows) - len(finished)} [" in trained.logs["whole"]  # the bar counts what is left
        assert "greedy: complete" in trained.logs["whole"]
        assert not re.search(r"^greedy: +\d+%", trained.logs["whole"], re.MULTILINE)


def test_the_output_names_every_stage_in_order(trained):
    for log, reached in (("greedy", "greedy"), ("samples", "samples"), ("whole", "artifact")):
        lines = trained.logs[log].splitlines()
        names = STAGES[: STAGES.index(reached) + 1]
        first = [next(at for at, line in enumerate(lines) if re.match(rf"{name}\b.*:", line)) for name in names]
        assert all(a < b for a, b in pairwise(first)), list(zip(names, first, strict=True))
    assert lines[-1] == f"artifact: {trained.artifact}"
    seen = {line for line in lines if line.strip() and "%|" not in line}
    assert len(seen) <= 24, seen  # one screen, apart from what redraws itself


def test_every_row_on_disk_is_strict_json(trained):
    for path in trained.out.glob("*.json*"):
        text = path.read_text(encoding="utf-8")
        assert text
        for document in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(document, parse_constant=pytest.fail)
    unfiltered = [row for row in read_rows((trained.out / "labels.jsonl").read_bytes()) if "unfilt" in row["split"]]
    assert {row["agreement"] for row in unfiltered} == {None}


def test_a_third_run_redoes_nothing_and_loads_no_model(trained, nothing_to_load, monkeypatch, caplog):
    before = snapshot(trained.out)
    assert len(before) > 3 * len(TEXT_STAGES)
    status, log = run(trained.arguments, trained.out.parent / "third.log", **nothing_to_load)
    assert status == 0, log
    assert [line for line in log.splitlines() if line.endswith(": complete")] == [
        f"{stage}: complete" for stage in TEXT_STAGES
    ]
    assert log.splitlines()[6:] == [f"artifact: {trained.artifact}"]
    assert snapshot(trained.out) == before
    # And the model was out of reach indeed: another artifact cannot be made.
    for name, value in nothing_to_load.items():
        monkeypatch.setenv(name, value)
    assert train_probe.main([*trained.arguments, "--version", "1.0.1"]) == 2
    assert re.search("^error: .*(smollm2|No matching distribution)", caplog.records[-1].getMessage())
    assert snapshot(trained.out) == before


@pytest.mark.parametrize(
    ("changes", "stage", "was", "now"),
    [(["--seed", "1"], "questions", "'seed': 0", "'seed': 1"), (["--samples", "3"], "samples", "2", "3")],
)
def test_other_settings_in_the_same_folder_are_refused_and_change_nothing(trained, changes, stage, was, now, caplog):
    before = snapshot(trained.out)
    assert train_probe.main([*trained.arguments, *changes]) == 2
    error = caplog.records[-1].getMessage()
    assert error.startswith(f"error: stage {stage} in {trained.out} was made with ")
    assert re.search(rf"{was}.*now.*{now}.*use another --out, or delete {stage}\.\* there", error)
    assert snapshot(trained.out) == before


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
    assert len({tuple(row.tolist()) for row in scores}) > 1
    assert golden_error(artifact, scores) < 2e-3
    other = "predicting" if artifact.probe.position == "own" else "own"
    shifted = score_golden(model, artifact.probe, (golden.prompt_ids, golden.response_ids), rule=other)
    assert golden_error(artifact, shifted) > 0.5


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
        assert (await client.get("/readyz")).status_code == 200  # the golden trace passed
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
    parts = [{**row, "cett": cett, "length": row["n_tokens"]} for row, cett in zip(free, fitted, strict=False)]
    assert risks == pytest.approx([probe.risk_model.risk(row) for row in parts], abs=0.02)
