"""One engine step: whose rows are scaled by what, and the evidence columns of the rows that are read.

Knows rows, banks and columns; no scheduler, no request ids. All on the device; nothing waits for it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from service.engines.vllm_plugin.buffers import TapBuffers
from service.engines.vllm_plugin.tap_config import RequestTap
from service.engines.vllm_plugin.wires import EagerSwitch

_NOBODY = RequestTap()


class StepTap:
    """Begins with a step's rows, ends with its evidence."""

    def __init__(self, buffers: TapBuffers, switch: EagerSwitch, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Prepare.

        Args:
            buffers: Of this rank.
            switch: Of the tapped layers.
            all_reduce: Sum over the ranks of tensor parallelism.
        """
        self.buffers, self._switch, self._all_reduce = buffers, switch, all_reduce
        self._is_scaled = False
        self._columns = buffers.config.columns
        self._read_rows = torch.zeros(0, dtype=torch.int64)
        self._read_banks: Tensor | int = 0

    def begin(self, requests: Sequence[RequestTap | None], counts: Sequence[int], read_rows: Tensor) -> None:
        """Before the forward pass.

        Args:
            requests: What each running request asks; None: it is not ours.
            counts: Rows that each of them feeds, in the order in which they lie in the batch.
            read_rows: Rows from which a token is chosen; a request has as many as tokens can come out of the step.
        """
        taps = [request or _NOBODY for request in requests]
        self._switch.reads = any(request is not None for request in requests)
        self._scale_rows(taps, counts)
        is_wide = any(tap.wants_cett for tap in taps)
        self._columns = self.buffers.config.wide_columns if is_wide else self.buffers.config.columns
        if not self._switch.reads:
            return
        reads_prompts = any(tap.first_row is not None for tap in taps)
        self.buffers.forget(slice(int(sum(counts))) if reads_prompts else read_rows.long())
        self._read_rows = read_rows
        banks = [tap.bank for tap in taps]
        is_one = len(set(banks)) == 1
        self._read_banks = banks[0] if is_one else torch.tensor(banks).to(read_rows.device, non_blocking=True)

    def read(self, rows: Tensor | None = None, requests: Tensor | None = None) -> Tensor:
        """Score columns of the rows from which tokens were chosen.

        Args:
            rows: Places in `read_rows` [R]; None: all of them, one a request.
            requests: Which request each of them belongs to [R].
        """
        read_rows = self._read_rows if rows is None else self._read_rows[rows]
        banks = self._read_banks
        if requests is not None and not isinstance(banks, int):
            banks = banks[requests]
        return self.columns_of_rows(read_rows, banks)

    def columns_of_rows(self, rows: Tensor, banks: Tensor | int) -> Tensor:
        """Score columns of some rows of the pass that just ran.

        Args:
            rows: Places in the batch [R].
            banks: Bank of each of them [R], or of all.

        Returns:
            Scores, and CETT where anyone in the batch wants it [R, C].
        """
        config = self.buffers.config
        cett = self.buffers.cett(rows)
        is_wide = self._columns > config.columns
        if is_wide:
            cett = self._all_reduce(cett)
        weights = self.buffers.weights[banks]
        scores = cett @ weights.T if isinstance(banks, int) else torch.einsum("rk,rnk->rn", cett, weights)
        return torch.cat([scores, cett], dim=1) if is_wide else self._all_reduce(scores)

    def _scale_rows(self, taps: Sequence[RequestTap], counts: Sequence[int]) -> None:
        self._switch.scales = any(tap.alpha != 1 for tap in taps)
        if not (self._switch.scales or self._is_scaled):
            return
        rows = int(sum(counts))
        alpha = np.repeat(np.asarray([tap.alpha for tap in taps], dtype=np.float32), counts)
        bank = np.repeat(np.asarray([tap.bank for tap in taps], dtype=np.int64), counts)
        self.buffers.alpha[:rows, 0].copy_(torch.from_numpy(alpha), non_blocking=True)
        self.buffers.bank[:rows].copy_(torch.from_numpy(bank), non_blocking=True)
        self._is_scaled = self._switch.scales


def evidence(logprobs: Tensor, token_ids: Tensor, scores: Tensor) -> Tensor:
    """All columns of some rows.

    Args:
        logprobs: Of the whole vocabulary, before temperature and cuts, float32 [R, V].
        token_ids: The chosen tokens [R].
        scores: What `columns_of_rows` returned [R, C].

    Returns:
        float32 [R, 2 + C].
    """
    chosen = logprobs.gather(1, token_ids[:, None])
    return torch.cat([chosen, _entropy(logprobs)[:, None], scores], dim=1)


def _entropy(logprobs: Tensor) -> Tensor:
    """Of each row [R]; on a CPU a few rows at a time, which stay in its cache."""
    rows = len(logprobs) if logprobs.is_cuda else max(1, _CACHED // logprobs.shape[1])
    # A token that the model rules out has p = 0 and log p = -inf, whose product would be nan.
    lowest = torch.finfo(logprobs.dtype).min
    parts = [torch.linalg.vecdot(part.exp(), part.clamp(min=lowest)) for part in torch.split(logprobs, rows)]
    return -torch.cat(parts)


_CACHED = 1 << 17
"""Numbers."""
