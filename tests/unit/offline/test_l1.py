"""The L1 solver against liblinear on the whole float64 matrix."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from offline.features import row_view
from offline.fitting import l1, l1_dense
from offline.fitting.l1 import fit_l1, fit_l1_path
from tests.unit.offline.l1_problems import assert_equal_fits, cett_like, liblinear, whole


@pytest.mark.parametrize("c", [0.3, 1.0, 3.0, 10.0])
def test_same_support_and_weights_as_liblinear_on_correlated_columns(c):
    values, labels = cett_like(220, 900)
    fit = fit_l1(whole(values), labels, c)
    assert_equal_fits(fit, liblinear(values, labels, c))
    assert fit.certificate.breach < 1e-8
    assert abs(fit.certificate.relative_gap) < 1e-8


def test_intercept_is_penalised_as_liblinear_does_it():
    values, labels = cett_like(200, 300)
    labels[:] = 0
    labels[:30] = 1  # rare enough that the intercept takes a weight
    fit = fit_l1(whole(values), labels, 1.0)
    assert fit.intercept < -0.5
    assert_equal_fits(fit, liblinear(values, labels, 1.0))


def test_intercept_at_zero_stays_at_zero():
    values, labels = cett_like(200, 50)
    labels[:] = np.arange(200) % 2
    fit = fit_l1(whole(values), labels, 0.05)
    assert fit.columns.size == 0
    assert fit.intercept == 0.0


def test_working_set_that_starts_too_small_still_ends_at_the_optimum(monkeypatch):
    monkeypatch.setattr(l1, "BATCH_COLUMNS", 4)
    values, labels = cett_like(200, 700)
    fit = fit_l1(whole(values), labels, 3.0)
    assert fit.passes > 3
    assert_equal_fits(fit, liblinear(values, labels, 3.0))


def test_warm_started_path_equals_cold_fits():
    values, labels = cett_like(200, 600)
    grid = [0.3, 1.0, 2.0, 5.0]
    for warm, c in zip(fit_l1_path(whole(values), labels, grid), grid, strict=True):
        cold = fit_l1(whole(values), labels, c)
        assert np.array_equal(warm.columns, cold.columns)
        np.testing.assert_allclose(warm.weights, cold.weights, rtol=1e-9)


def test_newton_that_stalls_goes_on_from_liblinear(monkeypatch):
    monkeypatch.setattr(l1_dense, "NEWTON_STEPS", 5)
    starts = []
    original = l1_dense._fit_liblinear
    monkeypatch.setattr(l1_dense, "_fit_liblinear", lambda *a: starts.append(a[-1]) or original(*a))
    values, labels = cett_like(200, 500)
    fit = fit_l1(whole(values), labels, 8.0)
    assert starts
    assert_equal_fits(fit, liblinear(values, labels, 8.0))


def test_columns_that_cannot_all_be_let_in_at_once(monkeypatch):
    monkeypatch.setattr(l1_dense, "ACTIVATED_COLUMNS", 10_000)
    values, labels = cett_like(120, 300)
    nearly = np.clip(values + 1e-3 * np.random.default_rng(0).standard_normal(values.shape), 0, None)
    doubled = np.concatenate([values, nearly.astype(np.float16)], axis=1)
    assert_equal_fits(fit_l1(whole(doubled), labels, 5.0), liblinear(doubled, labels, 5.0))


def test_single_precision_features_are_not_rounded_to_half():
    values, labels = cett_like(150, 300)
    single = values.astype(np.float32) * (1 + 1e-4 * np.random.default_rng(1).standard_normal(values.shape))
    single = single.astype(np.float32)
    assert_equal_fits(fit_l1(whole(single), labels, 3.0), liblinear(single, labels, 3.0))


def test_columns_at_the_edge_of_the_penalty_are_decided_in_double_precision(monkeypatch):
    values, labels = cett_like(200, 400)
    monkeypatch.setattr(row_view, "FLOAT32_UNIT_ROUNDOFF", 2.0**-14)  # most columns become unsure
    monkeypatch.setattr(l1, "REFINE_COLUMNS", 7)
    fit = fit_l1(whole(values), labels, 3.0)
    assert_equal_fits(fit, liblinear(values, labels, 3.0))


def test_memory_does_not_grow_with_rows_times_columns(tmp_path: Path):
    peaks = {}
    for columns in (20_000, 60_000):
        matrix = np.lib.format.open_memmap(tmp_path / f"{columns}.npy", "w+", np.float16, (300, columns))
        matrix[:] = np.random.default_rng(0).random((300, columns), dtype=np.float32)
        labels = np.arange(300) % 2
        tracemalloc.start()
        fit_l1(whole(matrix), labels, 0.05)
        peaks[columns] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A float64 copy would cost 2,400 bytes a column; a dozen vectors as long as a row are what may grow.
    assert (peaks[60_000] - peaks[20_000]) / 40_000 < 250


def test_one_class_is_refused():
    values, _ = cett_like(20, 10)
    with pytest.raises(ValueError, match="both classes"):
        fit_l1(whole(values), np.ones(20, np.int64), 1.0)


def test_labels_of_minus_one_are_refused():
    values, labels = cett_like(20, 10)
    with pytest.raises(ValueError, match="1 \\(hallucinated\\) or 0"):
        fit_l1(whole(values), 2 * labels - 1, 1.0)


def test_labels_of_another_length_are_refused():
    values, labels = cett_like(20, 10)
    with pytest.raises(ValueError, match="one label a row"):
        fit_l1(whole(values), labels[:-1], 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named(bad):
    values, labels = cett_like(40, 30)
    values[23, 11] = bad
    with pytest.raises(ValueError, match="column 11 of row 23"):
        fit_l1(whole(values), labels, 1.0)


@pytest.mark.parametrize("grid", [[], [0.0], [-1.0], [2.0, 1.0], [1.0, 1.0]])
def test_c_grid_must_rise(grid):
    values, labels = cett_like(20, 10)
    with pytest.raises(ValueError, match="ascending"):
        fit_l1_path(whole(values), labels, grid)
