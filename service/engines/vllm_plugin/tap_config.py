"""TapConfig: what the front end and the workers agree on before the model is loaded and compiled.

It travels in vLLM's `additional_config`, which is part of the key of its compile cache: a graph that was compiled
without taps, or with others, is never taken for this one.
"""

from dataclasses import asdict, dataclass
from typing import Any

from probes.checkpoint import StoredBlock

KEY = "hguard"
PROTOCOL = 4
"""Raised whenever the compiled operations or the evidence columns change."""
BANKS = 3
"""Head banks that can be loaded at once: the active probe's (with its shadow's), a canary's, and one that is being
proved or that running requests began with."""
FIRST_SCORE = 2
"""Evidence columns of a row: log-probability of the chosen token, entropy, then one score a head, then CETT a slot."""


@dataclass(frozen=True, slots=True)
class TapConfig:
    """Capacity of the taps."""

    blocks: tuple[StoredBlock, ...]
    """The modules that hold the neurons, in the order of the flat index: one a layer, or routed and shared experts."""
    slots: int
    """Neurons that can be read in each block, of all loaded probes together."""
    heads: int = 4
    """Read-outs of a probe at most."""
    residual: str = ""
    """The decoder layer after which the residual stream is read, by its module's name; "": it is not."""
    protocol: int = PROTOCOL

    @property
    def columns(self) -> int:
        """Evidence columns of a row without CETT."""
        return FIRST_SCORE + self.heads

    @property
    def wide_columns(self) -> int:
        """With the CETT of every slot."""
        return self.columns + len(self.blocks) * self.slots

    def additional_config(self) -> dict[str, Any]:
        """For vLLM's `additional_config`."""
        return {KEY: {**asdict(self), "blocks": [asdict(block) for block in self.blocks]}}

    @classmethod
    def of(cls, additional_config: Any) -> "TapConfig":
        """Back from it.

        Raises:
            ValueError: It is not there, or was written by another version of hguard.
        """
        found = additional_config.get(KEY) if isinstance(additional_config, dict) else None
        if found is None:
            raise ValueError(f"vLLM's additional_config has no {KEY!r}: start vLLM through HGUARD_ENGINE=vllm")
        if found.get("protocol") != PROTOCOL:
            raise ValueError(
                f"the front end speaks protocol {found.get('protocol')} and this worker {PROTOCOL}: install the same "
                "hguard on every host"
            )
        blocks = tuple(StoredBlock(**block) for block in found["blocks"])
        return cls(blocks, int(found["slots"]), int(found["heads"]), str(found["residual"]))


@dataclass(frozen=True, slots=True)
class RequestTap:
    """What one request asks of the taps; travels in `SamplingParams.extra_args`."""

    bank: int = 0
    alpha: float = 1.0
    wants_cett: bool = False
    first_row: int | None = None
    """Teacher forcing: position of the first prompt row that is read."""

    def extra_args(self) -> dict[str, Any]:
        """For `SamplingParams.extra_args`."""
        return {KEY: (self.bank, self.alpha, self.wants_cett, self.first_row)}

    @classmethod
    def of(cls, extra_args: Any) -> "RequestTap | None":
        """Back from it; None: a request that is not ours, such as vLLM's own warm-up."""
        found = extra_args.get(KEY) if extra_args else None
        return None if found is None else cls(*found)
