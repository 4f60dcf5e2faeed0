"""Residual streams of labelled responses, and the head that is fitted on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from offline.features import residuals as residuals_module
from offline.features.residuals import Residuals, candidate_layers, extract_residuals
from offline.fitting.residual import fit_residual
from offline.stages import StageMismatchError
from probes.positions import sequence_slice
from tests.unit.offline.tables import extract_table, make_table
from tests.unit.offline.tiny_run import make_run, tiny_llama

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return extract_table(tmp_path_factory.mktemp("features"), 40)


@torch.inference_mode()
def plain(passage, layer, rule):
    """The mean stream of the answer tokens' rows, from the hidden states of a plain pass of one passage."""
    p, t = len(passage.prompt_ids), len(passage.response_ids)
    states = tiny_llama()(input_ids=torch.tensor([passage.token_ids]), output_hidden_states=True).hidden_states
    rows = torch.arange(p + t)[sequence_slice(p, t, rule)][passage.answer]
    return states[layer + 1][0, rows].mean(dim=0).numpy()


def test_streams_are_those_of_plain_passes(table, tmp_path):
    found = extract_residuals(make_run(tmp_path), table, "upstream")
    for row in (0, 7, 39):
        for at, layer in enumerate(found.layers):
            for group, rule in (("answer", "own"), ("answer_ahead", "predicting")):
                expected = plain(table.passages[row], layer, rule)
                np.testing.assert_allclose(found.groups[group][row, at], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(
                found.groups["response"][row, at], found.groups["answer"][row, at], rtol=1e-5, atol=1e-5
            )


def test_hazard_a_killed_run_starts_anew_or_keeps_torn_rows(table, tmp_path, monkeypatch):
    run, reader = make_run(tmp_path), residuals_module._Reader
    read = []

    class Killed(reader):
        def read(self, batch):
            if len(read) == 1:
                raise KeyboardInterrupt
            read.append(len(batch))
            return super().read(batch)

    class Counted(reader):
        def read(self, batch):
            read.append(len(batch))
            return super().read(batch)

    monkeypatch.setattr(residuals_module, "plan_batches", lambda _all, rows, _tokens: [rows[:9], rows[9:]])
    monkeypatch.setattr(residuals_module, "_Reader", Killed)
    with pytest.raises(KeyboardInterrupt):
        extract_residuals(run, table, "upstream")
    monkeypatch.setattr(residuals_module, "_Reader", Counted)
    found = extract_residuals(run, table, "upstream")
    assert sum(read) == 40
    assert np.isfinite(found.groups["answer"]).all()
    with pytest.raises(StageMismatchError, match="delete"):
        extract_residuals(run, table, "another upstream")


@pytest.mark.parametrize("n_layers", [2, 4, 18, 24, 30, 80])
def test_candidates_are_layers_of_the_middle(n_layers):
    layers = candidate_layers(n_layers)
    assert list(layers) == sorted(set(layers))
    assert 0 <= layers[0] <= layers[-1] < n_layers
    assert n_layers < 18 or n_layers / 4 - 1 <= layers[0] < layers[-1] < 0.8 * n_layers


@pytest.fixture
def planted():
    """A table, and streams whose second layer knows the label."""
    table = make_table(400)
    draw = np.random.default_rng(1)
    streams = draw.normal(size=(400, 3, 16)).astype(np.float32) * 5 + 2
    labels = np.empty(400)
    labels[table.place] = table.labels
    streams[:, 1, 4] += 6 * labels
    return table, Residuals((3, 5, 9), {"answer": streams})


def test_the_layer_that_knows_is_found_and_its_head_gives_the_logits(planted):
    table, residuals = planted
    found = fit_residual(table, residuals, "answer")
    assert found.head.layer == 5
    x = residuals.groups["answer"][:, 1][table.place]
    np.testing.assert_allclose(found.logits, x @ found.head.weights + found.head.intercept, atol=1e-4)
    test = table.in_split("test")
    assert ((found.logits[test] > 0) == table.labels[test]).mean() > 0.65
    assert len(found.grid) == 12


def test_hazard_training_rows_are_scored_by_a_fit_that_saw_them(planted):
    table, residuals = planted
    found, train = fit_residual(table, residuals, "answer"), table.in_split("train")
    assert (found.unseen[~train] == found.logits[~train]).all()
    assert (found.unseen[train] != found.logits[train]).all()


def test_hazard_the_fit_sees_test_rows(planted):
    table, residuals = planted
    spoilt = tuple(
        row if row.split == "train" else replace(row, label={"faithful": "hallucinated"}.get(row.label, "faithful"))
        for row in table.rows
    )
    a, b = (fit_residual(rows, residuals, "answer") for rows in (table, replace(table, rows=spoilt)))
    assert a.head.intercept == b.head.intercept
    assert (a.head.weights == b.head.weights).all()
