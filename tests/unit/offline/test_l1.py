"""The L1 solver against liblinear on the whole float64 matrix, and against its own certificate."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from offline import l1, l1_dense, row_view
from offline.l1 import L1Fit, certify, fit_l1, fit_l1_path
from offline.row_view import RowView, stack_views


def cett_like(rows, columns, seed=0, factors=5):
    """Lognormal, positive, correlated columns in float16, and labels that depend on a few factors."""
    random = np.random.default_rng(seed)
    shared = random.standard_normal((rows, factors))
    exponents = 0.4 * shared @ random.standard_normal((factors, columns)) + 0.5 * random.standard_t(5, (rows, columns))
    values = np.exp(np.clip(exponents, -5, 5) - 3 + 0.7 * random.standard_normal(columns)).astype(np.float16)
    labels = (shared[:, 0] + shared[:, 1] + random.standard_normal(rows) > 0.4).astype(np.int64)
    return values, labels


def whole(matrix):
    return stack_views([(matrix, np.arange(len(matrix)))])


def liblinear(matrix, labels, c):
    model = LogisticRegression(l1_ratio=1, solver="liblinear", C=c, tol=1e-8, max_iter=1000, random_state=0)
    return model.fit(matrix.astype(np.float64), labels)


def dense_weights(fit: L1Fit, columns):
    weights = np.zeros(columns)
    weights[fit.columns] = fit.weights
    return weights


def assert_equal_fits(fit, model):
    weights = dense_weights(fit, model.coef_.shape[1])
    assert np.array_equal(weights != 0, model.coef_[0] != 0)
    np.testing.assert_allclose(weights, model.coef_[0], atol=1e-4)
    assert fit.intercept == pytest.approx(model.intercept_[0], abs=1e-4)


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


def test_rows_of_several_memory_maps_equal_the_stacked_matrix(tmp_path: Path):
    values, labels = cett_like(210, 500)
    first, second = values[:120], values[120:]
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "second.npy", second[::-1])
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("first", "second")]
    rows = [np.array([5, 2, 119, 60, *range(70, 110)]), np.arange(90)]
    view = stack_views([(maps[0], rows[0]), (maps[1], rows[1]), (maps[1], np.empty(0, np.int64))])
    stacked = np.concatenate([first[rows[0]], second[::-1][rows[1]]])
    chosen = np.concatenate([labels[:120][rows[0]], labels[120:][::-1][rows[1]]])
    assert_equal_fits(fit_l1(view, chosen, 3.0), liblinear(stacked, chosen, 3.0))


def test_single_precision_features_are_not_rounded_to_half():
    values, labels = cett_like(150, 300)
    single = values.astype(np.float32) * (1 + 1e-4 * np.random.default_rng(1).standard_normal(values.shape))
    single = single.astype(np.float32)
    assert_equal_fits(fit_l1(whole(single), labels, 3.0), liblinear(single, labels, 3.0))


@pytest.mark.parametrize("is_centred", [True, False])
def test_standardised_view_equals_a_scaler_before_liblinear(is_centred):
    values, labels = cett_like(180, 400)
    values[:, 17] = 0.25  # a constant column has no deviation to divide by
    values[:, 18] = 0.0
    scaler = StandardScaler(with_mean=is_centred).fit(values.astype(np.float64))
    fit = fit_l1(whole(values).standardised(is_centred=is_centred), labels, 0.05)
    assert fit.columns.size > 5
    assert_equal_fits(fit, liblinear(scaler.transform(values.astype(np.float64)), labels, 0.05))


def test_repeated_columns_are_certified_though_the_weights_are_not_unique():
    values, labels = cett_like(150, 200)
    doubled = np.concatenate([values, values], axis=1)
    fit = fit_l1(whole(doubled), labels, 5.0)
    single = fit_l1(whole(values), labels, 5.0)
    assert fit.certificate.breach < 1e-8
    assert fit.certificate.objective == pytest.approx(single.certificate.objective, rel=1e-10)


def test_separable_classes_still_reach_the_optimum():
    values, labels = cett_like(60, 400)
    fit = fit_l1(whole(values), labels, 300.0)
    assert ((whole(values).take_columns(fit.columns) @ fit.weights + fit.intercept > 0) == labels).all()
    assert fit.certificate.breach < 1e-8


def test_certificate_does_not_depend_on_the_screening_pass():
    values, labels = cett_like(200, 600)
    view = whole(values)
    fit = fit_l1(view, labels, 3.0)
    checked = certify(view, labels, 3.0, fit.columns, fit.weights, fit.intercept)
    assert checked.breach < 1e-8
    assert checked.objective == pytest.approx(fit.certificate.objective, rel=1e-12)
    x = np.column_stack([values.astype(np.float64), np.ones(len(values))])
    weights = np.append(dense_weights(fit, 600), fit.intercept)
    loss = sum(np.log1p(np.exp(-s * float(row @ weights))) for row, s in zip(x, 2 * labels - 1, strict=True))
    assert checked.objective == pytest.approx(np.abs(weights).sum() + 3.0 * loss, rel=1e-12)


@pytest.mark.parametrize("change", ["scaled", "dropped", "added", "intercept"])
def test_certificate_fails_where_weights_are_wrong(change):
    values, labels = cett_like(200, 600)
    view = whole(values)
    fit = fit_l1(view, labels, 3.0)
    columns, weights, intercept = fit.columns, fit.weights.copy(), fit.intercept
    if change == "scaled":
        weights *= 1.001
    elif change == "dropped":
        largest = np.argmax(np.abs(weights))
        columns, weights = np.delete(columns, largest), np.delete(weights, largest)
    elif change == "added":
        extra = np.setdiff1d(np.arange(600), columns)[:1]
        columns, weights = np.append(columns, extra), np.append(weights, 0.01)
    else:
        intercept += 0.01
    checked = certify(view, labels, 3.0, columns, weights, intercept)
    assert checked.breach > 1e-4
    assert checked.objective > fit.certificate.objective
    assert checked.duality_gap >= checked.objective - fit.certificate.objective


def test_columns_at_the_edge_of_the_penalty_are_decided_in_double_precision(monkeypatch):
    values, labels = cett_like(200, 400)
    monkeypatch.setattr(row_view, "FLOAT32_UNIT_ROUNDOFF", 2.0**-14)  # most columns become unsure
    monkeypatch.setattr(l1, "REFINE_COLUMNS", 7)
    fit = fit_l1(whole(values), labels, 3.0)
    assert_equal_fits(fit, liblinear(values, labels, 3.0))


def test_rounding_bound_covers_the_single_precision_pass():
    random = np.random.default_rng(0)
    values = (random.standard_normal((300, 200)) + 30).astype(np.float16)
    vector = random.standard_normal(300)
    products, bound = whole(values).correlate(vector)
    error = np.abs(products - vector @ values.astype(np.float64))
    assert (error <= bound).all()
    assert bound.max() < 1e-2


@pytest.mark.parametrize("name", ["STRIP_COLUMNS", "TILE_COLUMNS"])
def test_blocks_cut_anywhere_give_the_same_products(monkeypatch, name):
    values, labels = cett_like(50, 333)
    vector = labels - 0.5
    expected = vector @ values.astype(np.float64)
    monkeypatch.setattr(row_view, name, 100)
    monkeypatch.setattr(row_view, "COLUMN_TILE_BYTES", 50 * 8 * 64)
    view = whole(values)
    np.testing.assert_allclose(view.correlate(vector)[0], expected, atol=1e-4)
    tiles = np.concatenate([tile.copy() for _, tile in view.column_tiles()], axis=1)
    assert np.array_equal(tiles, values.astype(np.float64))
    np.testing.assert_allclose(view.statistics.std, values.astype(np.float64).std(axis=0), rtol=1e-5)


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


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="split is empty"):
        stack_views([(np.zeros((4, 3), np.float16), np.empty(0, np.int64))])


def test_double_precision_and_mixed_maps_are_refused():
    rows = np.arange(2)
    with pytest.raises(ValueError, match="save every matrix as float16"):
        stack_views([(np.zeros((2, 3)), rows)])
    with pytest.raises(ValueError, match="save every matrix as float16"):
        stack_views([(np.zeros((2, 3), np.float16), rows), (np.zeros((2, 3), np.float32), rows)])


def test_maps_of_two_models_are_refused():
    rows = np.arange(2)
    with pytest.raises(ValueError, match="same model"):
        stack_views([(np.zeros((2, 3), np.float16), rows), (np.zeros((2, 4), np.float16), rows)])


def test_row_outside_the_map_is_refused():
    with pytest.raises(ValueError, match="outside the 4 feature rows"):
        stack_views([(np.zeros((4, 3), np.float16), np.array([0, 4]))])


def test_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="constant columns"):
        RowView(((np.zeros((4, 3), np.float16), np.arange(4)),), scale=np.array([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("grid", [[], [0.0], [-1.0], [2.0, 1.0], [1.0, 1.0]])
def test_c_grid_must_rise(grid):
    values, labels = cett_like(20, 10)
    with pytest.raises(ValueError, match="ascending"):
        fit_l1_path(whole(values), labels, grid)


def test_tolerance_out_of_reach_is_an_error_and_not_a_quiet_result():
    values, labels = cett_like(60, 40)
    with pytest.raises(RuntimeError, match="tolerance"):
        fit_l1(whole(values), labels, 3.0, tolerance=1e-30)
