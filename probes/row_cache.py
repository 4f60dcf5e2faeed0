"""Keys and values of the rows of a decode batch, written in place.

transformers' `DynamicCache` copies itself at every step and cannot take in a row; here rows join, leave and move inside
one buffer a layer. All rows end at the same column. Knows no model and no token.
"""

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

_SPARE_COLUMNS = 32


class RowLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not type-checked
    """Keys and values [capacity, heads, columns, width] of one layer; `rows` and columns [low, high) are in use."""

    is_sliding = False  # all columns are kept; a sliding window is applied by the model's mask

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.low = self.high = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate from the first states that are seen: head counts and widths are the model's business."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.rows, length = key_states.shape[0], key_states.shape[2]
        self.keys = _zeros(key_states, self.rows, length + _SPARE_COLUMNS)
        self.values = _zeros(value_states, self.rows, length + _SPARE_COLUMNS)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the states of the fed columns; views of all columns in use come back."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._states()
        fed = key_states.shape[2]
        if self.high + fed > keys.shape[2]:
            self.reserve(self.rows, self.high - self.low + fed)
            keys, values = self._states()
        end = self.high + fed
        keys[: self.rows, :, self.high : end] = key_states
        values[: self.rows, :, self.high : end] = value_states
        self.high = end
        return keys[: self.rows, :, self.low : end], values[: self.rows, :, self.low : end]

    def reserve(self, rows: int, columns: int) -> None:
        """Move to a buffer for that many rows and half as many columns again; the columns in use move to the front."""
        keys, values = self._states()
        used = self.high - self.low
        self.keys = _zeros(keys, rows, _with_spare(columns))
        self.values = _zeros(values, rows, _with_spare(columns))
        self.keys[: self.rows, :, :used] = keys[: self.rows, :, self.low : self.high]
        self.values[: self.rows, :, :used] = values[: self.rows, :, self.low : self.high]
        self.low, self.high = 0, used

    def join(self, other: "RowLayer", copies: int) -> None:
        """Take over the rows of `other`, each `copies` times, aligned at the last column."""
        used, length = self.high - self.low, other.high - other.low
        rows, columns = self.rows + other.rows * copies, max(length, used)
        if rows > self._capacity() or self.low + columns > self._states()[0].shape[2]:
            self.reserve(max(rows + rows // 2, self._capacity()), columns)
        grow = columns - used
        for states, new in zip(self._states(), other._states(), strict=True):
            if grow:  # the newcomer is longer than every row here: the old rows move right
                old = states[: self.rows, :, self.low : self.high].clone()
                states[: self.rows, :, self.low : self.low + grow] = 0
                states[: self.rows, :, self.low + grow : self.high + grow] = old
            newcomers = new[: other.rows, :, other.low : other.high].repeat_interleave(copies, dim=0)
            # A row that left may have held nan; masked columns still enter the product, so they are cleared.
            states[self.rows : rows, :, self.low : self.low + columns - length] = 0
            states[self.rows : rows, :, self.low + columns - length : self.low + columns] = newcomers
        self.rows, self.high = rows, self.low + columns

    def keep(self, rows: Tensor, low: int) -> None:
        """Keep these rows and the columns from `low` (counted from the first column in use) on.

        A buffer four times too large is given back: one long request must not hold its memory for good.
        """
        if len(rows) > self._capacity():
            self.reserve(len(rows), self.high - self.low)
        self.low += low
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for states in self._states():
            states[moved, :, self.low : self.high] = states[rows[moved], :, self.low : self.high]
        self.rows = len(rows)
        used = self.high - self.low
        if 4 * self.rows * _with_spare(used) <= self._capacity() * self._states()[0].shape[2]:
            self.reserve(self.rows, used)

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.high - self.low

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset for the model's mask."""
        return self.high - self.low + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def _states(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _capacity(self) -> int:
        return int(self._states()[0].shape[0])


def _with_spare(columns: int) -> int:
    return max(columns + columns // 2, 2 * _SPARE_COLUMNS)


def _zeros(states: Tensor, rows: int, columns: int) -> Tensor:
    return torch.zeros((rows, states.shape[1], columns, states.shape[3]), dtype=states.dtype, device=states.device)
