"""Loaded heads: a head bank wired to a model, and the passes that run under it.

A pass that needs neither scores nor alpha runs without a hook on the model: the guard costs nothing there and cannot
change a bit.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.residual import ResidualTap
from probes.tap import HeadTap, TapError
from service.engines.base import HeadBank, RowEvidence


@dataclass(frozen=True, eq=False)
class LoadedHeads:
    """A head bank and its taps on the engine's model."""

    bank: HeadBank
    tap: HeadTap
    weights: Tensor
    """[N, K] on the model's device."""
    residual: tuple[ResidualTap, Tensor] | None
    """With the weights [N, D] on the model's device; None where no head reads the residual stream."""

    @classmethod
    def load(cls, model: nn.Module, bank: HeadBank) -> "LoadedHeads":
        """Wire a bank to a model; hooks nothing yet.

        Raises:
            ValueError: The bank is not of this model.
        """
        tap = HeadTap(model, bank.neurons, bank.suppressed)
        residual = None
        if bank.residual is not None:
            weights = torch.from_numpy(bank.residual.weights).to(tap.device)
            residual = ResidualTap(model, bank.residual.layer), weights
        return cls(bank, tap, torch.from_numpy(bank.weights).to(tap.device), residual)

    def begin(self, alphas: Sequence[float], *, is_scaled: bool, last: int) -> None:
        """Prepare for the next forward pass, see `HeadTap.begin`."""
        self.tap.begin(len(alphas), alphas=torch.tensor(alphas) if is_scaled else None, last=last)
        if self.residual is not None:
            self.residual[0].begin(last)

    def read(self) -> tuple[Tensor, Tensor]:
        """Scores [B, Q, N] and CETT [B, Q, K] of the pass since `begin`.

        Raises:
            TapError: A tapped layer did not run as expected.
        """
        reading = self.tap.read()
        scores = reading.scores(self.weights)
        if self.residual is not None:
            tap, weights = self.residual
            scores = scores + tap.read().to(scores.dtype) @ weights.to(scores.dtype).T
        return scores, reading.cett

    @contextmanager
    def attached(self, *, scales: bool) -> Iterator[None]:
        """Hook the model; unhooked on leaving."""
        with self.tap.attached(scales=scales), self.residual[0].attached() if self.residual else nullcontext():
            yield


@dataclass(frozen=True)
class PassResult:
    """What one forward pass gave."""

    logits: Tensor
    """[B, Q, V] of the last Q fed columns."""
    tap_error: TapError | None = None
    """The tap did not run: nothing was read, and alpha cannot be trusted to have been applied."""
    scores: list[list[list[float]]] | None = None
    """[B][Q][N]; None where nothing was to be read, or could not be."""
    cett: Tensor | None = None
    """[B, Q, K]."""
    scoring_seconds: float = 0.0

    def row(self, at: int, column: int, *, wants_neurons: bool) -> RowEvidence | None:
        """Evidence of one fed row; None where it was not read."""
        if self.scores is None or self.cett is None:
            return None
        neurons = self.cett[at, column].float().cpu().numpy() if wants_neurons else None
        return RowEvidence(tuple(self.scores[at][column]), neurons)


class TappedModel:
    """A model and the tap that is on it now.

    The hooks of the last pass stay for the next one, as putting them on costs as much as what they do. Outside a pass
    they are inert, and `release` takes them off.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._hooks = ExitStack()
        self._now: tuple[LoadedHeads, bool] | None = None

    def run(
        self,
        heads: LoadedHeads | None,
        forward: Callable[[], Tensor],
        *,
        alphas: Sequence[float],
        is_read: bool,
        last: int = 1,
    ) -> PassResult:
        """Run the model once.

        Args:
            heads: What is read and scaled; None without a probe.
            forward: Runs the model; returns logits [B, Q, V].
            alphas: Of each row, B of them.
            is_read: Whether any row is scored in this pass.
            last: How many of the last fed columns are read.
        """
        is_scaled = any(alpha != 1 for alpha in alphas)
        if heads is None or not (is_read or is_scaled):
            self.release()
            return PassResult(forward())
        self._attach(heads, is_scaled)
        heads.begin(alphas, is_scaled=is_scaled, last=last)
        try:
            logits = forward()
        except BaseException:
            self.release()
            raise
        began = time.perf_counter()
        try:
            scores, cett = heads.read()
        except TapError as error:
            return PassResult(logits, tap_error=error)
        if not is_read:
            return PassResult(logits)
        return PassResult(logits, scores=scores.tolist(), cett=cett, scoring_seconds=time.perf_counter() - began)

    def release(self) -> None:
        """Take the hooks off the model."""
        self._hooks.close()
        self._now = None

    def _attach(self, heads: LoadedHeads, is_scaled: bool) -> None:
        if self._now != (heads, is_scaled):
            self.release()
            self._hooks.enter_context(heads.attached(scales=is_scaled))
            self._now = heads, is_scaled
