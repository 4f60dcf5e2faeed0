"""Where the taps are called in vLLM's model runner, and how evidence leaves it.

The evidence of a row takes the place of vLLM's log-probability columns, which already find their way through chunked
prefill, preemption, speculation, asynchronous copies and several processes to the request that they belong to. Column
ids are past the vocabulary: nothing on that way may take two columns for one token.

For the runner that vLLM calls V1; the methods overridden here are checked by `compat.py`.
"""

from typing import Any

import torch
import vllm
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors

from service.engines.vllm_plugin.compat import check_read_rows
from service.engines.vllm_plugin.row_signals import RowSignals
from service.engines.vllm_plugin.step_tap import StepTap, evidence
from service.engines.vllm_plugin.tap_config import RequestTap


class TapRunner:
    """Mixed into the class of vLLM's model runner."""

    hguard: StepTap

    def attach(self, tap: StepTap, signals: RowSignals) -> None:
        """Take over the columns of the sampler."""
        self.hguard, self._hguard_signals = tap, signals
        self._hguard_is_checked = False
        self._hguard_rows: tuple[Tensor, Tensor] | None = None
        self._hguard_measured: tuple[Tensor, Tensor] | None = None
        runner: Any = self
        runner.sampler.compute_logprobs = self._measure_logits
        runner.sampler.gather_logprobs = self._gather_evidence

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        runner: Any = self
        prepared = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)  # type: ignore[misc]
        if not self._hguard_is_checked:
            check_read_rows(prepared[0], int(num_scheduled_tokens.sum()), vllm.__version__)
            self._hguard_is_checked = True
        self.hguard.begin(
            [self._tap_of(request_id) for request_id in runner.input_batch.req_ids],
            num_scheduled_tokens.tolist(),
            prepared[0],
        )
        return prepared

    def _sample(self, logits: Tensor, spec_decode_metadata: Any) -> Any:
        self._hguard_rows = None if spec_decode_metadata is None else _speculated_rows(spec_decode_metadata)
        return super()._sample(logits, spec_decode_metadata)  # type: ignore[misc]

    def _measure_logits(self, logits: Tensor) -> Tensor:
        """What the sampler keeps in place of log-probabilities: the logits as they are now.

        It scales and cuts float32 logits in place before it draws; greedy requests and other types it leaves as they
        are, and ours ask for no other change.
        """
        runner: Any = self
        is_left = logits.dtype != torch.float32 or runner.input_batch.sampling_metadata.all_greedy
        kept = logits if is_left else logits.clone()
        self._hguard_measured = kept, self._hguard_signals.measure(logits)
        return kept

    def _gather_evidence(self, kept: Tensor, num_logprobs: int, token_ids: Tensor) -> LogprobsTensors:  # noqa: ARG002
        measured, self._hguard_measured = self._hguard_measured, None
        if measured is None or measured[0] is not kept:
            raise RuntimeError("vLLM's sampler asks for the log-probabilities of other rows than it computed last")
        rows, requests = self._hguard_rows or (None, None)
        return _as_logprobs(evidence(*measured, token_ids, self.hguard.read(rows, requests)), token_ids)

    def _get_prompt_logprobs_dict(
        self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        """Evidence of teacher-forced rows, a prefill chunk at a time; rows that are not read get none, nor logits.

        VLLM unpacks a number at a time what is returned here, in the process that serves.
        """
        runner: Any = self
        finished: dict[str, LogprobsTensors | None] = {}
        for request_id, n_columns in list(runner.num_prompt_logprobs.items()):
            fed = num_scheduled_tokens.get(request_id)
            if fed is None:  # preempted
                continue
            request, tap = runner.requests[request_id], self._tap_of(request_id)
            ids, first_row = request.prompt_token_ids, (tap.first_row or 0) if tap else 0
            found = request.in_progress_prompt_logprobs_cpu
            if found is None:
                found = LogprobsTensors.empty_cpu(len(ids) - 1 - first_row, n_columns + 1)
                request.in_progress_prompt_logprobs_cpu = found
            start = request.num_computed_tokens
            end = min(start + fed, len(ids) - 1)  # the last row predicts no prompt token
            first = max(start, first_row)
            if first < end:
                place = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]]) - start
                rows = torch.arange(place + first, place + end, device=hidden_states.device)
                targets = torch.tensor(ids[first + 1 : end + 1], pin_memory=hidden_states.is_cuda)
                targets = targets.to(hidden_states.device, non_blocking=True)
                logits = runner.model.compute_logits(hidden_states[rows])
                scores = self.hguard.columns_of_rows(rows, tap.bank if tap else 0)
                made = _as_logprobs(evidence(logits, self._hguard_signals.measure(logits), targets, scores), targets)
                for whole, part in zip(found[:3], made[:3], strict=True):
                    width = part.shape[1:] and min(part.shape[1], whole.shape[1])
                    place_in = slice(first - first_row, end - first_row)
                    whole[place_in].copy_(part[:, :width] if width else part, non_blocking=True)
            if start + fed >= len(ids):
                finished[request_id] = found
                del runner.num_prompt_logprobs[request_id]
                request.in_progress_prompt_logprobs_cpu = None
        if finished:
            runner._sync_device()
        return finished

    def _tap_of(self, request_id: str) -> RequestTap | None:
        runner: Any = self
        params = runner.requests[request_id].sampling_params
        return None if params is None else RequestTap.of(params.extra_args)


def _speculated_rows(metadata: Any) -> tuple[Tensor, Tensor]:
    """Places of the rows whose log-probabilities the rejection sampler asks for, and their requests.

    It asks for a rectangle of the longest draft: row i of request r lies i after the first of r; what is past the
    request's own rows is thrown away later.
    """
    ends = metadata.cu_num_sampled_tokens
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    steps = torch.arange(metadata.max_spec_len + 1, device=ends.device)
    rows = (starts[:, None] + steps).flatten().clamp_(max=len(metadata.logits_indices) - 1)
    return rows, torch.arange(len(starts), device=ends.device).repeat_interleave(len(steps))


def _as_logprobs(columns: Tensor, token_ids: Tensor) -> LogprobsTensors:
    ids = torch.arange(columns.shape[1], dtype=torch.int32, device=columns.device) + _FIRST_ID
    return LogprobsTensors(ids.repeat(len(columns), 1), columns, torch.zeros_like(token_ids, dtype=torch.int32))


_FIRST_ID = 1 << 30
"""No vocabulary is that large."""
