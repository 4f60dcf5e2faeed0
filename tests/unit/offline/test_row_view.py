"""Rows of feature maps as one matrix: products, blocks, scales, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from offline.features import row_view
from offline.features.row_view import RowView, stack_views
from offline.fitting.l1 import fit_l1
from tests.unit.offline.l1_problems import assert_equal_fits, cett_like, liblinear, whole


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


@pytest.mark.parametrize("is_centred", [True, False])
def test_standardised_view_equals_a_scaler_before_liblinear(is_centred):
    values, labels = cett_like(180, 400)
    values[:, 17] = 0.25  # a constant column has no deviation to divide by
    values[:, 18] = 0.0
    scaler = StandardScaler(with_mean=is_centred).fit(values.astype(np.float64))
    fit = fit_l1(whole(values).standardised(is_centred=is_centred), labels, 0.05)
    assert fit.columns.size > 5
    assert_equal_fits(fit, liblinear(scaler.transform(values.astype(np.float64)), labels, 0.05))


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
