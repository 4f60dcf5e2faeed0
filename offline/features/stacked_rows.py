"""StackedRows: feature files one below the other, read as one array [rows, neurons] that is never built."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FeatureArray = NDArray[np.floating[Any]]
"""float16 or float32 [rows, columns], usually a memory map."""
IndexArray = NDArray[np.int64]


class StackedRows:
    """Arrays of one width and type; the rows of the second follow those of the first."""

    def __init__(self, first: FeatureArray, second: FeatureArray) -> None:
        """Stack two arrays.

        Raises:
            ValueError: Their widths or types differ.
        """
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            raise ValueError(
                f"features of {first.shape} {first.dtype} and {second.shape} {second.dtype} do not stack: extract both "
                "with the same model"
            )
        self._arrays = (first, second)
        self._starts = (0, len(first))
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = first.dtype

    def __getitem__(self, key: Any) -> FeatureArray:
        """Read whole rows `[rows]`, some columns of all rows `[:, columns]`, or of some `[rows[:, None], columns]`."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(rows, slice):
            rows = np.arange(self.shape[0])[rows]
        pieces = [np.asarray(array[at][:, columns]) for array, at in self.split(np.asarray(rows).reshape(-1))]
        return np.concatenate(pieces) if pieces else np.asarray(self._arrays[0][:0][:, columns])

    def split(self, rows: IndexArray) -> Iterator[tuple[FeatureArray, IndexArray]]:
        """These rows as (array, row numbers in it), in their order."""
        is_second = rows >= self._starts[1]
        for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(is_second)) + 1):
            if len(piece):
                which = int(is_second[piece[0]])
                yield self._arrays[which], rows[piece] - self._starts[which]
