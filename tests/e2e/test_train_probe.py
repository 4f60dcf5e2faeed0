"""What a user runs: `python offline/train_probe.py` with the real default model, killed twice, then to the end."""

import json
import re
from collections import Counter
from itertools import pairwise

import pytest

from offline import train_probe
from probes.artifact import load_artifact
from tests.e2e.training import DOMAIN_STAGES, FEW_ROWS, STAGES, TEXT_STAGES, keys_of, read_rows, run, snapshot

pytestmark = pytest.mark.slow


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
    assert len(seen) <= 30, seen  # one screen, apart from what redraws itself


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
        f"{stage}: complete" for stage in (*TEXT_STAGES, *DOMAIN_STAGES)
    ]
    assert log.splitlines()[11:] == [f"artifact: {trained.artifact}"]
    assert snapshot(trained.out) == before
    # And the model was out of reach indeed: another artifact cannot be made.
    for name, value in nothing_to_load.items():
        monkeypatch.setenv(name, value)
    assert train_probe.main([*trained.arguments, "--version", "1.0.1"]) == 2
    assert re.search("^error: .*(smollm2|No matching distribution)", caplog.records[-1].getMessage())
    assert snapshot(trained.out) == before


def test_a_domain_is_judged_on_its_own_rows_and_holds_no_question_of_the_run(trained):
    asked = {row["question"] for row in read_rows((trained.out / "questions.jsonl").read_bytes())}
    offered = read_rows((trained.out / "domain-questions.jsonl").read_bytes())
    assert len(offered) == 12
    assert asked.isdisjoint(row["question"] for row in offered)
    counts = json.loads((trained.out / "domain-questions.manifest.json").read_text())["counts"]["left_out"]
    assert counts["currencies-madeup"] == {"question of the run": 2}
    rows = read_rows((trained.out / "domain-labels.jsonl").read_bytes())
    found = next(d for d in load_artifact(trained.artifact).card["domains"] if d["domain"] == "currencies")
    assert found["rows"] == {name: sum(row["label"] == name for row in rows) for name in ("faithful", "hallucinated")}
    assert "## AUROC by domain" in (trained.artifact / "README.md").read_text(encoding="utf-8")


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
