"""Banks: which probes are loaded into the slots of vLLM's workers, and which of their columns are whose.

A request keeps the bank that it began with, so a probe leaves its bank when its last request has ended. Knows no vLLM.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from probes.checkpoint import RoutedRows
from service.engines.base import EngineError, HeadBank, Heads


@dataclass(eq=False)
class LoadedBank:
    """A head bank in the workers' slots."""

    number: int
    bank: HeadBank
    slots: NDArray[np.int64]
    """Slot of each neuron, counted over all blocks [K]."""
    running: int = 0

    def salt_of(self, alpha: float) -> str | None:
        """Prefix cache: keys and values that were computed under an alpha hold for that alpha and probe only."""
        return None if alpha == 1 else f"hguard/{self._scaled}/{alpha}"

    @cached_property
    def _scaled(self) -> str:
        """Names the H-neurons that alpha scales."""
        return sha256(self.bank.neurons.flat[self.bank.suppressed].tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class BankWrite:
    """What the workers are told to write; see `TapBuffers.write` and `TapBuffers.write_routed`."""

    number: int
    index: list[list[int]]
    norms: list[list[float]]
    weights: list[list[float]]
    scaled: list[list[int]]
    stream: bytes
    routed: tuple[list[int], list[int], bytes]


@dataclass
class Banks:
    """The slots of all blocks and the probes in them."""

    widths: tuple[int, ...]
    """Neurons of each block: of each layer, or of each part of it that holds neurons."""
    slots: int
    heads: int
    count: int
    current: LoadedBank | None = None
    _loaded: dict[int, LoadedBank] = field(default_factory=dict)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self._index = np.full((len(self.widths), self.slots), -1, dtype=np.int64)
        self._norms = np.zeros((len(self.widths), self.slots), dtype=np.float32)

    async def free_number(self) -> int:
        """A bank that no request uses; waits until there is one."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._free() is not None)
        number = self._free()
        assert number is not None
        return number

    def plan(
        self, number: int, bank: HeadBank, norms: NDArray[np.float32], routed: RoutedRows
    ) -> tuple[LoadedBank, BankWrite]:
        """Find slots for a bank; neurons that another loaded bank has too share its slot.

        No request gets the number before `add`.

        Args:
            number: From `free_number`.
            bank: The heads.
            norms: norm(W_down[:, j]) of its neurons [K].
            routed: Weights of those that are routed.

        Raises:
            ValueError: The bank is of another model, or does not fit into the slots.
        """
        neurons = bank.neurons.split(self.widths)
        if len(bank.names) > self.heads:
            raise ValueError(f"{len(bank.names)} heads are more than the {self.heads} that the engine was started with")
        kept = [loaded.slots for at, loaded in self._loaded.items() if at != number]
        in_use = np.zeros(self._index.size, dtype=bool)
        in_use[np.concatenate(kept) if kept else []] = True
        self._index[~in_use.reshape(self._index.shape)] = -1
        places = np.empty(len(neurons), dtype=np.int64)
        for block in np.unique(neurons.layer):
            at = neurons.of_layer(block)
            found = self._place(block, neurons.index[at], norms[at])
            if found is None:
                raise ValueError(
                    f"layer {bank.neurons.layer[at.start]} has {self.slots} slots and the loaded probes need more: "
                    f"restart with HGUARD_VLLM_SLOTS={2 * self.slots}"
                )
            places[at] = block * self.slots + found
        scaled = np.zeros(self._index.size, dtype=np.int64)
        scaled[places[bank.suppressed]] = 1
        weights = np.zeros((len(bank.names), self._index.size), dtype=np.float32)
        weights[:, places] = bank.weights
        self._loaded.pop(number, None)
        write = BankWrite(
            number,
            self._index.tolist(),
            self._norms.tolist(),
            weights.tolist(),
            scaled.reshape(self._index.shape).tolist(),
            b"" if bank.residual is None else bank.residual.weights.astype(np.float32).tobytes(),
            (places[routed.places].tolist(), routed.experts.tolist(), routed.weights.tobytes()),
        )
        return LoadedBank(number, bank, places), write

    def add(self, loaded: LoadedBank, *, is_default: bool) -> None:
        """The workers have it: requests may use it, and as the default those that name none will."""
        self._loaded[loaded.number] = loaded
        if is_default:
            self.current = loaded

    def pick(self, named: Heads | None) -> LoadedBank | None:
        """The bank that a request names, or the default one."""
        assert named is None or isinstance(named, LoadedBank), "heads of another engine"
        return named or self.current

    @contextmanager
    def used(self, loaded: LoadedBank | None) -> Iterator[None]:
        """Keep a bank while a request runs, or while requests may come.

        Raises:
            EngineError: It was replaced before.
        """
        if loaded is None:
            yield
            return
        if self._loaded.get(loaded.number) is not loaded:
            raise EngineError("the heads were replaced between the making of this request and its first step")
        loaded.running += 1
        try:
            yield
        finally:
            loaded.running -= 1
            if not loaded.running:
                _ = asyncio.get_running_loop().create_task(self._announce())

    def _place(self, block: int, neurons: NDArray[np.int64], norms: NDArray[np.float32]) -> NDArray[np.int64] | None:
        """Slots of some neurons of a block; None: they do not fit."""
        row = self._index[block]
        found = np.empty(len(neurons), dtype=np.int64)
        for at, (neuron, norm) in enumerate(zip(neurons, norms, strict=True)):
            places = np.flatnonzero(row == neuron)
            if not len(places):
                places = np.flatnonzero(row < 0)
            if not len(places):
                return None
            found[at] = places[0]
            row[places[0]], self._norms[block, places[0]] = neuron, norm
        return found

    def _free(self) -> int | None:
        for number in range(self.count):
            loaded = self._loaded.get(number)
            if loaded is None or (loaded is not self.current and not loaded.running):
                return number
        return None

    async def _announce(self) -> None:
        async with self._freed:
            self._freed.notify_all()
