"""Rows of several feature matrices on disk, read as one matrix that is never built.

A view names rows of one or more row-major memory maps [rows, columns] and may standardise them:
x' = (x - center) / scale. Every reduction streams blocks, so memory is a few vectors as long as a row plus one block,
whatever the number of rows. It knows nothing of labels, neurons or classifiers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from offline.features.stacked_rows import FeatureArray, IndexArray, StackedRows

Float64Array = NDArray[np.float64]

BLOCK_ROWS = 16
"""Few rows: float32 sums stay short (their rounding bound grows with the count), the rest is summed in float64."""
STRIP_COLUMNS = 262_144
"""Columns read from one row at a stretch (512 KiB of float16), so that a cold disk sees long reads."""
TILE_COLUMNS = 16_384
"""Columns converted at a time: 1 MiB of float32, which stays in cache between conversion and product."""
COLUMN_TILE_BYTES = 32 * 2**20
FLOAT32_UNIT_ROUNDOFF = 2.0**-24


class ColumnStatistics(NamedTuple):
    """Per-column moments of the raw features, float64 [columns] each."""

    mean: Float64Array
    std: Float64Array
    """Population standard deviation; exactly 0 for a constant column."""
    norm: Float64Array
    """Euclidean norm of the column."""


@dataclass(frozen=True, eq=False)
class RowView:
    """An ordered choice of rows from feature matrices of equal width."""

    parts: tuple[tuple[FeatureArray, IndexArray], ...]
    """(matrix, row numbers in it); ascending row numbers read the file in order."""
    center: Float64Array | None = None
    """[columns], subtracted; raw units."""
    scale: Float64Array | None = None
    """[columns], > 0, divided by after centring; raw units."""

    def __post_init__(self) -> None:
        if self.n_rows == 0:
            raise ValueError("no feature rows: the split is empty; check the labels and the split names")
        first = self.parts[0][0]
        for matrix, rows in self.parts:
            if matrix.ndim != 2 or matrix.shape[1:] != first.shape[1:] or matrix.shape[1] == 0:
                raise ValueError(
                    f"feature matrices must be [rows, columns] of one width, got {matrix.shape} beside {first.shape}; "
                    "extract them with the same model"
                )
            if matrix.dtype != first.dtype or matrix.dtype not in (np.float16, np.float32):
                raise ValueError(f"features are {matrix.dtype}; save every matrix as float16, or every one as float32")
            if rows.size and not 0 <= rows.min() <= rows.max() < matrix.shape[0]:
                raise ValueError(f"row numbers reach outside the {matrix.shape[0]} feature rows; extract them again")
        for name, vector in (("center", self.center), ("scale", self.scale)):
            if vector is not None and (vector.shape != (self.n_columns,) or not np.isfinite(vector).all()):
                raise ValueError(f"{name} must hold one finite number for each of the {self.n_columns} columns")
        if self.scale is not None and self.scale.min() <= 0:
            raise ValueError("scale must be positive; give constant columns the scale 1")

    @property
    def n_rows(self) -> int:
        """Rows of the view."""
        return sum(rows.size for _, rows in self.parts)

    @property
    def n_columns(self) -> int:
        """Columns of every matrix."""
        return int(self.parts[0][0].shape[1])

    @cached_property
    def _row_arrays(self) -> list[FeatureArray]:
        # Plain ndarray views: slicing a np.memmap object costs several times more per call.
        return [row for matrix, rows in self.parts for row in (np.asarray(matrix)[number] for number in rows.tolist())]

    @cached_property
    def statistics(self) -> ColumnStatistics:
        """Mean, standard deviation and norm of every raw column, in one pass.

        Raises:
            ValueError: A feature is nan or infinite; names the first such column and row.
        """
        # Sums are taken of the distance to the first row, so that a constant column gets a std of exactly 0.
        shift = self._row_arrays[0].astype(np.float32)
        total, squares = np.zeros(self.n_columns), np.zeros(self.n_columns)
        ones = np.ones(BLOCK_ROWS, dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            for rows, columns, tile in self._row_blocks():
                tile -= shift[columns]
                total[columns] += ones[: rows.stop - rows.start] @ tile
                tile *= tile
                squares[columns] += ones[: rows.stop - rows.start] @ tile
        finite = np.isfinite(squares)
        if not finite.all():
            column = int(np.argmin(finite))
            row = next(i for i, values in enumerate(self._row_arrays) if not np.isfinite(values[column]))
            raise ValueError(
                f"features are not finite in {int((~finite).sum())} columns, first in column {column} of row {row}; "
                "drop those rows or extract them again (float16 overflows above 65504)"
            )
        mean = total / self.n_rows
        variance = np.maximum(squares / self.n_rows - mean**2, 0.0)
        mean += shift
        return ColumnStatistics(mean, np.sqrt(variance), np.sqrt(self.n_rows * (variance + mean**2)))

    def standardised(self, *, is_centred: bool = True) -> "RowView":
        """The same rows with unit variance (constant columns keep the scale 1) and, by default, zero mean."""
        scale = np.where(self.statistics.std > 0, self.statistics.std, 1.0)
        return replace(self, center=self.statistics.mean if is_centred else None, scale=scale)

    def correlate(self, vector: Float64Array) -> tuple[Float64Array, Float64Array]:
        """X'^T vector over every column in one sequential pass, in float32 blocks summed in float64.

        Args:
            vector: [rows].

        Returns:
            The products [columns], and a bound on the rounding error of each [columns].
        """
        products = np.zeros(self.n_columns)
        single = vector.astype(np.float32)
        for rows, columns, tile in self._row_blocks():
            products[columns] += single[rows] @ tile
        # Conversion of the vector plus BLOCK_ROWS float32 additions, then Cauchy-Schwarz on sum |x||v|.
        relative = (BLOCK_ROWS + 2) * FLOAT32_UNIT_ROUNDOFF
        rounding = self.statistics.norm * (relative * float(np.linalg.norm(vector)))
        if self.center is not None:
            products -= self.center * vector.sum()
        if self.scale is not None:
            products /= self.scale
            rounding /= self.scale
        return products, rounding

    def take_columns(self, columns: IndexArray) -> Float64Array:
        """The chosen columns as float64 [rows, len(columns)], standardised."""
        taken = np.empty((self.n_rows, columns.size))
        for i, row in enumerate(self._row_arrays):
            taken[i] = row[columns]
        self._standardise(taken, columns)
        return taken

    def column_tiles(self) -> Iterator[tuple[slice, Float64Array]]:
        """Every column once, as standardised float64 tiles [rows, width]; a tile is overwritten by the next."""
        width = min(self.n_columns, max(1, COLUMN_TILE_BYTES // (8 * self.n_rows)))
        buffer = np.empty(self.n_rows * width)
        for start in range(0, self.n_columns, width):
            columns = slice(start, min(start + width, self.n_columns))
            tile = buffer[: self.n_rows * (columns.stop - start)].reshape(self.n_rows, -1)
            for i, row in enumerate(self._row_arrays):
                tile[i] = row[columns]
            self._standardise(tile, columns)
            yield columns, tile

    def _standardise(self, values: Float64Array, columns: IndexArray | slice) -> None:
        if self.center is not None:
            values -= self.center[columns]
        if self.scale is not None:
            values /= self.scale[columns]

    def _row_blocks(self) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
        """(rows, columns, raw float32 tile) over the whole matrix; a tile is overwritten by the next."""
        strip = np.empty((BLOCK_ROWS, min(self.n_columns, STRIP_COLUMNS)), dtype=self.parts[0][0].dtype)
        single = np.empty((BLOCK_ROWS, min(self.n_columns, TILE_COLUMNS)), dtype=np.float32)
        # torch converts float16 with vector instructions, several times faster than numpy's cast.
        source, target = torch.from_numpy(strip), torch.from_numpy(single)
        for top in range(0, self.n_rows, BLOCK_ROWS):
            block = self._row_arrays[top : top + BLOCK_ROWS]
            height = len(block)
            for left in range(0, self.n_columns, STRIP_COLUMNS):
                right = min(left + STRIP_COLUMNS, self.n_columns)
                for i, row in enumerate(block):
                    strip[i, : right - left] = row[left:right]
                for start in range(left, right, TILE_COLUMNS):
                    stop = min(start + TILE_COLUMNS, right)
                    with _one_torch_thread():
                        target[:height, : stop - start].copy_(source[:height, start - left : stop - left])
                    yield slice(top, top + height), slice(start, stop), single[:height, : stop - start]


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Convert a tile on one thread: torch's thread pool spinning beside the BLAS one made a pass 50 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def stack_views(parts: Sequence[tuple[FeatureArray | StackedRows, IndexArray]]) -> RowView:
    """A raw view of the given (matrix, row numbers) parts, one below the other; empty parts are left out."""
    pieces: list[tuple[FeatureArray, IndexArray]] = []
    for matrix, rows in parts:
        pieces += matrix.split(rows) if isinstance(matrix, StackedRows) else [(matrix, rows)]
    return RowView(tuple((matrix, rows) for matrix, rows in pieces if rows.size))
