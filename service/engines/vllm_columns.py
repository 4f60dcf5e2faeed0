"""Evidence in vLLM's terms: what a request asks of the workers, and what the columns that come back mean.

The columns are laid out by `service.engines.vllm_plugin.tap_config`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import RowEvidence, TokenEvidence
from service.engines.vllm_banks import LoadedBank
from service.engines.vllm_plugin.tap_config import FIRST_SCORE, RequestTap, TapConfig


@dataclass(frozen=True)
class Columns:
    """Asks for evidence columns and reads them."""

    tap: TapConfig

    def params(self, tap: RequestTap, *, is_teacher_forced: bool = False, **options: Any) -> Any:
        """VLLM's SamplingParams of a request; greedy where `options` do not say otherwise."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        columns = (self.tap.wide_columns if tap.wants_cett else self.tap.columns) - 1  # beside the chosen token's
        return SamplingParams(
            **{"temperature": 0.0, **options},
            detokenize=False,
            logprobs=columns,
            prompt_logprobs=columns if is_teacher_forced else None,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA,
            extra_args=tap.extra_args(),
        )

    def row(self, columns: Sequence[float], loaded: LoadedBank, wants_cett: bool) -> RowEvidence:
        """Scores of a row, and CETT of the bank's neurons."""
        scores = tuple(columns[FIRST_SCORE : FIRST_SCORE + len(loaded.bank.names)])
        neurons: NDArray[np.float32] | None = None
        if wants_cett:
            neurons = np.asarray(columns[self.tap.columns :], dtype=np.float32)[loaded.slots]
        return RowEvidence(scores, neurons)


def split(flat: Any) -> list[list[float]]:
    """Evidence columns of each position of vLLM's flat log-probabilities."""
    return [flat.logprobs[start:end] for start, end in zip(flat.start_indices, flat.end_indices, strict=True)]


def token_of(token_id: int, columns: Sequence[float]) -> TokenEvidence:
    """A chosen token with the free signals of its row."""
    return TokenEvidence(int(token_id), columns[0], columns[1])
