"""Stacked arrays are read like the one array that they stand for."""

import numpy as np
import pytest

from offline.features.row_view import stack_views
from offline.features.stacked_rows import StackedRows


@pytest.fixture
def stacked():
    values = np.random.default_rng(0).random((9, 5)).astype(np.float16)
    return values, StackedRows(values[:4], values[4:])


@pytest.mark.parametrize("rows", [[8, 0, 4, 3, 3], [1], [5, 6], []])
def test_rows_in_any_order_are_those_of_the_whole(stacked, rows):
    values, found = stacked
    rows, columns = np.array(rows, dtype=np.int64), np.array([4, 1])
    assert found.shape == values.shape
    np.testing.assert_array_equal(found[rows], values[rows])
    np.testing.assert_array_equal(found[rows[:, None], columns], values[rows[:, None], columns])
    np.testing.assert_array_equal(found[:, columns], values[:, columns])


def test_a_view_keeps_the_order_of_rows_that_change_between_the_arrays(stacked):
    values, found = stacked
    rows = np.array([8, 0, 4, 3])
    view = stack_views([(found, rows), (values, np.array([2]))])
    np.testing.assert_array_equal(view.take_columns(np.arange(5)), values[[8, 0, 4, 3, 2]].astype(np.float64))


@pytest.mark.parametrize("second", [np.zeros((2, 4), np.float16), np.zeros((2, 5), np.float32)])
def test_arrays_of_another_model_are_refused(stacked, second):
    with pytest.raises(ValueError, match="do not stack: extract both with the same model"):
        StackedRows(stacked[0], second)
