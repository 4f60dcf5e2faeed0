"""Where extraction is called in vLLM's model runner, the one that vLLM calls V1."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from offline.extraction.passage_sums import PassageSums, Piece
from offline.extraction.passages import Passage
from probes.spans import AnswerSpan

KEY = "hguard_extract"

METHODS = {
    "_prepare_inputs": ["self", "scheduler_output", "num_scheduled_tokens"],
    "_get_prompt_logprobs_dict": ["self", "hidden_states", "num_scheduled_tokens"],
}
"""What is overridden, for `probes.vllm_start.check_signatures`."""


def describe(row: int, passage: Passage) -> dict[str, Any]:
    """What the runner must know of a passage beside its tokens, for `SamplingParams.extra_args`."""
    return {KEY: (row, len(passage.prompt_ids), [(span.start, span.end) for span in passage.spans])}


class ExtractRunner:
    """Mixed into the class of vLLM's model runner."""

    hguard_sums: PassageSums
    hguard_error: str = ""
    """Why extraction gave up; everything that is fed afterwards is for nothing."""

    def hguard_tap(self, down: nn.Module, layer: int) -> None:
        """Read a down projection on every pass.

        Args:
            down: Linear layer of vLLM: z [rows, M] -> h [rows, D], whole in this process; in a batch of one where vLLM
                runs the model through its back end for models of transformers.
            layer: Which.
        """

        def read(_module: nn.Module, args: tuple[Tensor], output: Any) -> None:
            z, h = args[0], output[0] if isinstance(output, tuple) else output
            if z.dim() == 3:
                z, h = z[0], h[0]
            self._hguard_try(lambda: self.hguard_sums.add(layer, z, h))

        down.register_forward_hook(read)

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)  # type: ignore[misc]
        self._hguard_try(lambda: self.hguard_sums.begin(self._hguard_pieces(num_scheduled_tokens.tolist())))
        return prepared

    def _get_prompt_logprobs_dict(self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]) -> Any:
        """Called after every pass, with the hidden states of all fed rows."""
        self._hguard_try(lambda: self.hguard_sums.finish(hidden_states))
        return super()._get_prompt_logprobs_dict(hidden_states, num_scheduled_tokens)  # type: ignore[misc]

    def _hguard_try(self, work: Callable[[], None]) -> None:
        """An error that left this process would reach the user as a dead engine without a reason."""
        if not self.hguard_error:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - told over RPC, whatever it is
                self.hguard_error = f"{type(error).__name__}: {error}"
                self.hguard_sums.begin(())

    def _hguard_pieces(self, counts: list[int]) -> list[Piece]:
        runner: Any = self
        pieces, place = [], 0
        for request_id, count in zip(runner.input_batch.req_ids, counts, strict=True):
            request = runner.requests[request_id]
            found = (request.sampling_params.extra_args or {}).get(KEY)
            if found is not None:
                row, n_prompt, spans = found
                ids = tuple(request.prompt_token_ids)
                passage = Passage(str(row), ids[:n_prompt], ids[n_prompt:], tuple(AnswerSpan(*span) for span in spans))
                pieces.append(Piece(row, passage, request.num_computed_tokens, slice(place, place + count)))
            place += count
        return pieces
