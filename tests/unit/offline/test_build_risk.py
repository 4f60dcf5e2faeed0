"""The risk of an artifact on a tiny model: fitted on the right rows, and the one that is served and judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from offline.build import build_artifact
from offline.evaluation.evaluate import QUESTION, SERVED
from offline.features.residuals import extract_residuals
from offline.features.table import Table
from offline.fitting.choose import score
from offline.fitting.combination import fit_combination, part_columns
from offline.fitting.probe import fit_probe
from offline.metrics import auroc
from probes.artifact import load_artifact
from tests.unit.offline.tiny_run import make_run

torch.set_num_threads(1)


def test_the_combination_is_fitted_on_logits_of_rows_that_the_probe_did_not_see(built):
    """On its own training rows the probe is too good, and would get too much weight beside the free signals."""
    _, table, fitted, folder = built
    found, train = load_artifact(folder).probe.risk_model, table.in_split("train")
    everything = np.ones(len(table.rows), dtype=bool)
    logits = score(table, fitted.candidate.variant.groups[0], everything, fitted.fit, fitted.view)
    unseen = logits.copy()
    unseen[train] = fitted.candidate.out_of_fold
    honest, flattered = (
        fit_combination(
            part_columns(table, {"cett": cett, "residual": fitted.residual.unseen}, "lexical"),
            table.labels,
            train,
            list(found.weights),
        )
        for cett in (unseen, logits)
    )
    assert found.weights == pytest.approx(honest.weights)
    assert found.weights["cett"] != pytest.approx(flattered.weights["cett"], rel=0.01)


def test_the_served_risk_is_the_one_that_was_judged(built):
    """What the service computes from a response's parts gives the AUROC and the out-of-domain share on the card."""
    _, table, fitted, folder = built
    artifact, group = load_artifact(folder), fitted.candidate.variant.groups[0]
    probe = artifact.probe
    rows = np.flatnonzero(table.in_split("test"))
    cett = np.asarray(table.groups[group], dtype=np.float64)[table.place[rows]][:, probe.neurons.flat] @ probe.weights
    names = ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy")
    parts = [
        {
            "cett": value + probe.intercept,
            "residual": fitted.residual.logits[row],
            "length": table.signals["n_tokens"][row],
        }
        | {name: table.signals[name][row] for name in names}
        for value, row in zip(cett, rows, strict=True)
    ]
    risks = np.array([probe.risk_model.risk(part) for part in parts])
    evidence, labels = artifact.card["evidence"]["test"], table.labels[rows]
    assert auroc(risks, labels) == pytest.approx(evidence["methods"][SERVED]["auroc"][0], abs=1e-4)
    assert ((risks - labels) ** 2).mean() == pytest.approx(evidence["risk"]["brier"][0], abs=1e-4)
    outside = [probe.domain.is_outside(part) for part in parts]
    assert np.mean(outside) == pytest.approx(evidence["out_of_domain"], abs=1e-4)


@pytest.mark.usefixtures("without_baselines")
def test_the_risk_sees_no_test_row(built, tmp_path):
    _, table, fitted, folder = built
    spoilt = tuple(
        replace(row, label="faithful" if row.label == "hallucinated" else "hallucinated")
        if row.split in ("test", "unfiltered-test")
        else row
        for row in table.rows
    )
    other = Table(spoilt, table.passages, table.place, table.groups, table.signals)
    again = build_artifact(make_run(tmp_path), other, fitted, "upstream", name="tiny", version="1.0.0")
    a, b = load_artifact(folder).probe, load_artifact(again).probe
    for name in ("risk_model", "threshold", "budgets", "domain"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.usefixtures("without_baselines")
def test_questions_that_say_nothing_do_not_end_the_refresh(built, tmp_path):
    """The question-only control may select no neuron at all; that is its best outcome, and no reason to stop."""
    _, table, _, _ = built
    silent = {**table.groups, "prompt": np.zeros_like(table.groups["prompt"])}
    run, same = make_run(tmp_path), replace(table, groups=silent)
    fitted = fit_probe(run, same, extract_residuals(run, same, "upstream"), "upstream")
    assert fitted.asked.n_selected == 0
    folder = build_artifact(run, same, fitted, "upstream", name="tiny", version="1.0.0")
    assert load_artifact(folder).card["evidence"]["test"]["methods"][QUESTION]["auroc"] == [0.5, 0.5, 0.5]


@pytest.mark.usefixtures("without_baselines")
def test_without_the_lexical_locator_the_probe_is_calibrated_on_what_it_will_pool(built, tmp_path):
    _, table, _, _ = built
    run = make_run(tmp_path, spans="alias")
    fitted = fit_probe(run, table, extract_residuals(run, table, "upstream"), "upstream")
    assert fitted.candidate.variant.position == "own"
    assert fitted.served_group("response") == "response"
    assert fitted.served_group("lexical") == "answer"
    folder = build_artifact(run, table, fitted, "upstream", name="tiny", version="1.0.0")
    assert load_artifact(folder).probe.locator == "response"
