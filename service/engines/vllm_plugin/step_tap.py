"""One engine step: whose rows are scaled by what, and the evidence columns of the rows that are read.

Knows rows, banks and columns; no scheduler, no request ids. All on the device; nothing waits for it.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
        self._switch.later.clear()  # of a pass that failed
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
        self._read_banks = (
            banks[0] if is_one else self._from_host(banks, np.int64).to(read_rows.device, non_blocking=True)
        )

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
        self._switch.collect()
        cett = self.buffers.cett(rows)
        is_wide = self._columns > config.columns
        if is_wide:
            cett = self._all_reduce(cett)
        weights = self.buffers.weights[banks]
        scores = cett @ weights.T if isinstance(banks, int) else torch.einsum("rk,rnk->rn", cett, weights)
        if config.residual:
            scores = scores + self.buffers.stream[rows, banks]
        return torch.cat([scores, cett], dim=1) if is_wide else self._all_reduce(scores)

    def _scale_rows(self, taps: Sequence[RequestTap], counts: Sequence[int]) -> None:
        self._switch.scales = any(tap.alpha != 1 for tap in taps)
        if self._switch.scales:
            rows = int(sum(counts))
            alpha = self._from_host(np.repeat([tap.alpha for tap in taps], counts), np.float32)
            bank = self._from_host(np.repeat([tap.bank for tap in taps], counts), np.int64)
            self.buffers.alpha[:rows, 0].copy_(alpha, non_blocking=True)
            self.buffers.bank[:rows].copy_(bank, non_blocking=True)
        elif self._is_scaled:
            self.buffers.alpha.fill_(1)  # all of it: a later step may have more rows than this one
        self._is_scaled = self._switch.scales

    def _from_host(self, values: Any, dtype: type[np.generic]) -> Tensor:
        """Numbers from which an asynchronous copy can be made.

        From pageable memory CUDA would copy only when everything that is queued has run, and vLLM's next step would
        wait; torch keeps pinned memory until the copies that were queued from it are done.
        """
        host = torch.from_numpy(np.asarray(values, dtype=dtype))
        return host.pin_memory() if self.buffers.alpha.is_cuda else host


def evidence(logits: Tensor, measured: Tensor, token_ids: Tensor, scores: Tensor) -> Tensor:
    """All columns of some rows.

    Args:
        logits: Before temperature and cuts [R, V].
        measured: What `RowSignals.measure` found of them [R, 2].
        token_ids: The chosen tokens [R].
        scores: What `columns_of_rows` returned [R, C].

    Returns:
        float32 [R, 2 + C].
    """
    chosen = logits.gather(1, token_ids[:, None]).float() - measured[:, :1]
    return torch.cat([chosen, measured[:, 1:], scores], dim=1)
