"""From a served response to a better calibrated probe: label, export, refit, and serve what came out."""

import json
import random
import stat
from itertools import count

import httpx
import pytest

import service.answering.scoring
from offline.recalibrate import main as recalibrate
from probes.artifact import load_artifact, save_artifact
from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.feedback.drift import LabelledRisk
from service.feedback_export import main as export
from service.lifecycle import Parts
from tests.contract.labelling import label, metric, metric_becomes
from tests.serving import QUESTION, serve_on_port
from tests.unit.probes.test_reference import slow_psi
from tests.unit.service.test_drift import slow_ece

N = 240


async def test_labels_of_served_responses_recalibrate_the_probe(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/feedback.db"
    folder = tmp_path / "probes" / "fake" / "0"
    artifact = save_artifact(folder, fake_artifact(locator="response"), "# fake 0\n")
    numbers = count()  # ids decide what is held out
    monkeypatch.setattr(service.answering.scoring, "new_id", lambda: f"gen-{next(numbers):024x}")
    draw = random.Random(0)
    risks, wrong = [], []
    with serve_on_port(Parts(FakeEngine(), artifact), feedback_url=url, drift_window=200) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            for _ in range(N):
                text = "".join(draw.choices("abcdefgh .", k=6))
                answer = (await client.post("/score", json={"prompt": QUESTION, "response": text})).json()
                risks.append(answer["risk"])
                wrong.append(draw.random() < answer["risk"] ** 2)  # rarer than the probe says
                found = await label(client, answer["id"], "hallucinated" if wrong[-1] else "faithful")
                assert found.status_code == 200
            await metric_becomes(client, 'hguard_risk_window_rows{kind="labelled"}', 200)
            psi, ece = await metric(client, "hguard_risk_psi"), None
            rows = [LabelledRisk(*row) for row in zip(risks, wrong, strict=True)][-200:]
            await metric_becomes(client, "hguard_risk_ece", pytest.approx(slow_ece(rows)))
            ece = await metric(client, "hguard_risk_ece")
    assert psi == pytest.approx(slow_psi(artifact.reference, risks[-200:]))

    monkeypatch.setenv("HGUARD_FEEDBACK_URL", url)
    file = tmp_path / "rows.jsonl"
    assert export(["export", "--out", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["risk"] for row in exported] == risks
    assert [artifact.probe.risk_model.risk(row["parts"]) for row in exported] == pytest.approx(risks, rel=1e-12)
    assert all(row["question"] is row["response"] is None for row in exported)
    assert export(["export", "--out", str(file)]) == 2, "an export overwrites nothing"

    assert recalibrate([str(folder), str(file), "--version", "1", "--out", str(tmp_path / "probes")]) == 0
    better = load_artifact(tmp_path / "probes" / "fake" / "1")
    assert better.card["recalibrated"]["ece"][1][0] < better.card["recalibrated"]["ece"][0][0]
    assert better.card["recalibrated"]["ece"][1][0] < ece
    with serve_on_port(Parts(FakeEngine(), better), feedback_url="off") as address:
        async with httpx.AsyncClient(base_url=address) as client:
            answer = await client.post("/score", json={"prompt": QUESTION, "response": "It is Paris."})
            assert answer.json()["guard"]["probe"]["sha256"] == better.sha256


@pytest.mark.parametrize("setting", ["off", "mysql://me:tr0ub4dor@host/db", "sqlite:////proc/none/feedback.db"])
def test_an_export_that_cannot_be_is_one_line_and_no_file(tmp_path, monkeypatch, capsys, setting):
    monkeypatch.setenv("HGUARD_FEEDBACK_URL", setting)
    assert export(["export", "--out", str(tmp_path / "rows.jsonl")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hguard-feedback: ")
    assert said.count("\n") == 1
    assert "tr0ub4dor" not in said
    assert not (tmp_path / "rows.jsonl").exists()
