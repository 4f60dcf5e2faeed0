"""The free signals of `probes.signals` for vLLM's rows, without a tensor of log-probabilities [rows, vocabulary].

Large vocabularies make these the dearest part of the evidence: every pass over them counts.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_CACHED = 1 << 17
"""Numbers that stay in a CPU's cache."""


class RowSignals:
    """Takes norm and entropy of rows of logits."""

    def __init__(self, *, is_compiled: bool) -> None:
        """Prepare.

        Args:
            is_compiled: Fuse the operations with torch.compile; otherwise run them one by one, a few rows at a time.
        """
        self._measure: Callable[[Tensor], Tensor] = (
            torch.compile(_measure, dynamic=True) if is_compiled else _measure_in_cache
        )

    def compile(self, vocabulary: int, device: torch.device, dtype: torch.dtype) -> None:
        """Compile now what the first steps would wait for; nothing to do where operations run one by one.

        Args:
            vocabulary: Of the model.
            device: Of its logits.
            dtype: Of its logits.
        """
        with torch.inference_mode():
            for rows in (1, 2):  # torch compiles one row apart from several
                for padding in (0, 1):  # and rows of a padded vocabulary, which lie apart, from rows that meet
                    self._measure(torch.zeros(rows, vocabulary + padding, device=device, dtype=dtype)[:, :vocabulary])

    def measure(self, logits: Tensor) -> Tensor:
        """What the logits of a row say before a token is chosen.

        Args:
            logits: Before temperature and cuts [R, V], any floating-point type.

        Returns:
            logsumexp of each row, and its entropy in nats, float32 [R, 2].
        """
        return self._measure(logits)


def _measure(logits: Tensor) -> Tensor:
    top = logits.amax(dim=-1, keepdim=True).float()
    # A token that the model rules out has weight 0 and depth -inf, whose product would be nan.
    depth = (logits.float() - top).clamp_(min=torch.finfo(torch.float32).min)
    weight = depth.exp()
    mass = weight.sum(dim=-1)
    log_mass = mass.log()
    return torch.stack([top[:, 0] + log_mass, log_mass - torch.linalg.vecdot(weight, depth) / mass], dim=-1)


def _measure_in_cache(logits: Tensor) -> Tensor:
    rows = max(1, _CACHED // logits.shape[1])
    return torch.cat([_measure(part) for part in torch.split(logits, rows)])
