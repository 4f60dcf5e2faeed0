"""A tap that reads every neuron and reduces over tokens inside the hook, for offline features.

For each of G groups of tokens the mean CETT of every neuron is taken while the layer runs, so no more than one layer's
activations exist at a time and memory does not grow with the number of rows. Scales nothing; see `probes.tap` for that.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.architectures import feed_forwards
from probes.cett import EPS, column_norms, h_norm
from probes.experts import expert_norms, read_experts


class ReducingTap:
    """Mean CETT of all neurons over groups of tokens: `run` forward passes inside `with tap.attached()`."""

    def __init__(self, model: nn.Module) -> None:
        """Find all feed-forward parts and take the norms of all columns.

        Raises:
            UnsupportedArchitectureError: The model's class is not in the table.
        """
        self.model = model
        self._parts = feed_forwards(model)
        self.widths = tuple(part.width for part in self._parts)
        self._norms = {
            (part.layer, block.offset): expert_norms(
                block.module, torch.arange(block.width, device=_device(block.module))
            )
            if block.is_routed
            else column_norms(block.module.get_parameter("weight"))
            for part in self._parts
            for block in part.blocks
        }
        self._weights = torch.empty(0)
        self._out = torch.empty(0)
        self._pending: dict[int, list[tuple[slice, Tensor]]] = {}
        self._seen: set[int] = set()

    def run(self, weights: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
        """One forward pass.

        Args:
            weights: How much each fed token counts in each group [B, G, T], float32; a group's mean has weights that
                sum to 1, a padding column has weight 0.
            inputs: The model's keyword arguments.

        Returns:
            Features [B, G, sum of widths] float32 on the model's device, and the model's output.
        """
        self._weights = weights
        self._out = torch.empty(*weights.shape[:2], sum(self.widths), device=weights.device)
        self._seen.clear()
        self._pending.clear()  # of a pass that failed
        output = self.model(**inputs)
        if len(self._seen) != len(self._parts):
            missing = sorted({part.layer for part in self._parts} - self._seen)
            raise RuntimeError(f"the taps of layers {missing} did not run: use the tap inside `with tap.attached()`")
        return self._out, output

    @contextmanager
    def attached(self) -> Iterator["ReducingTap"]:
        """Hook the model; unhooked on leaving, also after an error."""
        with ExitStack() as stack:
            start = 0
            for part in self._parts:
                place = slice(start, start + part.width)
                if len(part.blocks) == 1 and part.blocks[0].module is part.output:
                    stack.callback(part.output.register_forward_hook(self._dense_hook(part.layer, place)).remove)
                else:
                    for block in part.blocks:
                        here = slice(start + block.offset, start + block.offset + block.width)
                        hook = self._part_hook(part.layer, here, is_routed=block.is_routed)
                        stack.callback(block.module.register_forward_hook(hook).remove)
                    stack.callback(part.output.register_forward_hook(self._output_hook(part.layer)).remove)
                start += part.width
            yield self

    def _reduce(self, layer: int, offset: int, place: slice, z: Tensor, weights: Tensor) -> None:
        torch.mul(torch.bmm(weights.to(z.dtype), z), self._norms[layer, offset], out=self._out[:, :, place])

    def _over_h(self, h: Tensor) -> Tensor:
        return self._weights / (h_norm(h)[..., 0] + EPS)[:, None]

    def _dense_hook(self, layer: int, place: slice) -> Any:
        def reduce(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            # In place: the down projection is the only reader of its input, and it has run.
            self._reduce(layer, 0, place, args[0].abs_(), self._over_h(output))
            self._seen.add(layer)

        return reduce

    def _part_hook(self, layer: int, place: slice, *, is_routed: bool) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
            rows = self._weights.shape[0]
            if is_routed:
                width = place.stop - place.start
                z = read_experts(module, torch.arange(width, device=_device(module)), *args).view(rows, -1, width)
            else:
                z = args[0].view(rows, -1, args[0].shape[-1])
            self._pending.setdefault(layer, []).append((place, z.abs()))

        return keep

    def _output_hook(self, layer: int) -> Any:
        def reduce(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
            over_h = self._over_h(output)
            start = sum(self.widths[:layer])
            for place, z in self._pending.pop(layer):
                self._reduce(layer, place.start - start, place, z, over_h)
            self._seen.add(layer)

        return reduce


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
