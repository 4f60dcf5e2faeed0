"""The fit is chosen on training rows alone, folds share no answer, and a kill loses one path."""

import numpy as np
import pytest

from offline.features.table import Table
from offline.fitting import choose as module
from offline.fitting.choose import (
    FOLDS,
    QUESTION_ONLY,
    VARIANTS,
    Candidate,
    FoldPath,
    Variant,
    choose,
    cross_validate,
    fit_variant,
    raw_units,
    score,
)
from offline.stages import Stage
from tests.unit.offline.tables import make_table

RAW = Variant("1-vs-1", "own", is_standardised=False)
STANDARDISED = Variant("3-vs-1", "predicting", is_standardised=True)


def open_stage(folder):
    return Stage(folder, "selection", FoldPath, {})


def make_candidate(auroc, n_selected, *, n_h_neurons=5.0, standard_error=0.01):
    return Candidate(RAW, 1.0, auroc, standard_error, n_selected, n_h_neurons, np.zeros(0))


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.mark.parametrize("variant", [RAW, STANDARDISED])
def test_the_planted_neurons_are_found_with_their_signs(table, variant):
    train = table.in_split("train")
    fits, view = fit_variant(table, train, variant, variant.c_values)
    fit = fits[-1]
    weights, _ = raw_units(fit, view)
    by_neuron = dict(zip(fit.columns.tolist(), weights.tolist(), strict=True))
    assert by_neuron[3] > 0 > by_neuron[17]
    assert np.abs(weights).argsort()[-2:].size == 2
    top = fit.columns[np.abs(weights).argsort()[-2:]]
    assert set(top.tolist()) == {3, 17}


@pytest.mark.parametrize("variant", [RAW, STANDARDISED])
def test_weights_in_raw_units_give_the_logits_of_the_view(table, variant):
    train = table.in_split("train")
    fits, view = fit_variant(table, train, variant, variant.c_values)
    weights, intercept = raw_units(fits[-1], view)
    raw = np.asarray(table.groups[variant.groups[0]], dtype=np.float64)[table.place]
    found = score(table, variant.groups[0], train, fits[-1], view)
    np.testing.assert_allclose(found, raw[train][:, fits[-1].columns] @ weights + intercept, atol=1e-9)
    if view.center is not None:
        scaled = (raw - view.center) / view.scale
        expected = scaled[train][:, fits[-1].columns] @ fits[-1].weights + fits[-1].intercept
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_every_training_row_is_scored_once_by_a_fit_that_did_not_see_it(table, tmp_path):
    candidates = cross_validate(table, [RAW], open_stage(tmp_path))
    assert [c.c for c in candidates] == list(RAW.c_values)
    train = np.flatnonzero(table.in_split("train"))
    folds = np.array([module.fold_of(table.rows[row].answers_key) for row in train])
    k = 1
    inside = np.zeros(len(table.rows), dtype=bool)
    inside[train[folds != k]] = True
    outside = np.zeros(len(table.rows), dtype=bool)
    outside[train[folds == k]] = True
    fits, view = fit_variant(table, inside, RAW, RAW.c_values)
    for number, candidate in enumerate(candidates):
        assert len(candidate.out_of_fold) == len(train)
        expected = score(table, "answer", outside, fits[number], view)
        np.testing.assert_allclose(candidate.out_of_fold[folds == k], expected, atol=1e-9)
    assert max(c.auroc for c in candidates) > 0.9


def test_an_answer_string_is_never_in_two_folds():
    assert {module.fold_of("paris") for _ in range(3)} == {module.fold_of("paris")}
    assert {module.fold_of(f"key {i}") for i in range(100)} == set(range(FOLDS))


def test_rows_outside_the_training_split_change_nothing(table, tmp_path):
    others = ~table.in_split("train")
    flipped = tuple(module_row(row, flips=flips) for row, flips in zip(table.rows, others, strict=True))
    other = Table(flipped, table.passages, table.place, table.groups, table.signals)
    a = cross_validate(table, [RAW], open_stage(tmp_path / "a"))
    b = cross_validate(other, [RAW], open_stage(tmp_path / "b"))
    assert [c.as_row() for c in a] == [c.as_row() for c in b]


def module_row(row, *, flips):
    from dataclasses import replace

    return replace(row, label="faithful" if row.label == "hallucinated" else "hallucinated") if flips else row


def test_a_kill_loses_one_path_and_the_rest_is_not_fitted_again(table, tmp_path, monkeypatch):
    variants = [RAW, STANDARDISED]
    whole = cross_validate(table, variants, open_stage(tmp_path / "whole"))
    real, calls = module.fit_variant, []

    def killed_at_the_sixth(*args):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(module, "fit_variant", killed_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(table, variants, open_stage(tmp_path / "cut"))
    calls.clear()
    again = cross_validate(table, variants, open_stage(tmp_path / "cut"))
    assert len(calls) == len(variants) * FOLDS - 5
    assert [c.as_row() for c in again] == [c.as_row() for c in whole]
    for a, b in zip(again, whole, strict=True):
        np.testing.assert_array_equal(a.out_of_fold, b.out_of_fold)
    calls.clear()
    cross_validate(table, variants, open_stage(tmp_path / "cut"))
    assert not calls  # complete: nothing is fitted


def test_a_fit_that_does_not_end_costs_its_c_and_not_the_refresh(table, tmp_path, monkeypatch):
    whole = cross_validate(table, [RAW], open_stage(tmp_path / "whole"))
    real = module.fit_variant

    def stuck(table, rows, variant, c_values):
        if max(c_values) > 5 and table.rows[np.flatnonzero(rows)[0]] is first:  # in some of the folds
            raise RuntimeError("stopped at a breach")
        return real(table, rows, variant, c_values)

    train = np.flatnonzero(table.in_split("train"))
    first = table.rows[train[0]]
    monkeypatch.setattr(module, "fit_variant", stuck)
    found = cross_validate(table, [RAW], open_stage(tmp_path / "stuck"))
    assert [c.c for c in found] == [0.3, 1.0, 3.0]
    for a, b in zip(found, whole, strict=False):
        np.testing.assert_allclose(a.out_of_fold, b.out_of_fold, atol=1e-6)


def test_too_few_rows_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"too few.*--limit.*--agreement"):
        cross_validate(make_table(12), [RAW], open_stage(tmp_path))


def test_the_best_auroc_under_the_cap_wins():
    candidates = [make_candidate(0.80, 90), make_candidate(0.795, 40), make_candidate(0.78, 5)]
    assert choose(candidates, neurons=10_000, max_per_mille=1.0).auroc == 0.80


def test_of_equal_aurocs_the_smaller_one_wins():
    candidates = [make_candidate(0.80, 40), make_candidate(0.80, 20)]
    assert choose(candidates, neurons=10_000, max_per_mille=1.0).n_selected == 20


def test_a_probe_over_the_cap_is_neither_chosen_nor_the_yardstick():
    candidates = [make_candidate(0.95, 500, n_h_neurons=300.0), make_candidate(0.80, 40), make_candidate(0.70, 3)]
    assert choose(candidates, neurons=10_000, max_per_mille=1.0).auroc == 0.80


def test_a_fit_without_h_neurons_is_no_probe():
    with pytest.raises(ValueError, match=r"too few.*--limit"):
        choose([make_candidate(0.9, 3, n_h_neurons=0.0)], neurons=10_000, max_per_mille=1.0)


def test_a_cap_that_nothing_is_under_is_named():
    with pytest.raises(ValueError, match="--max-per-mille"):
        choose([make_candidate(0.9, 30)], neurons=10_000, max_per_mille=0.1)


def test_variants_have_names_of_their_own_and_the_control_sees_the_question_only():
    names = [variant.name for variant in (*VARIANTS, *QUESTION_ONLY)]
    assert len(set(names)) == len(names) == 10
    assert {variant.groups for variant in QUESTION_ONLY} == {("prompt", "prompt")}
    assert RAW.groups == ("answer", "other")
    assert STANDARDISED.groups == ("answer_ahead", "other_ahead")


def test_the_card_row_is_ready_for_json(table, tmp_path):
    row = cross_validate(table, [RAW], open_stage(tmp_path))[0].as_row()
    assert row["mode"] == "1-vs-1"
    assert all(isinstance(value, str | float | int) for value in row.values())
