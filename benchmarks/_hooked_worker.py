"""What people write who want activations out of vLLM: forward hooks that append them to lists on the host.

Added to vLLM's workers by `worker_extension_cls`; runs in their processes and needs eager mode.
"""

from typing import Any

from torch import Tensor, nn


class HookedWorker:
    """Keeps z of every fed row of every down projection."""

    def keep_activations(self) -> int:
        """RPC: hook the model; returns the number of hooked layers."""
        worker: Any = self
        self.kept: dict[str, list[Tensor]] = {}
        for name, module in worker.model_runner.model.named_modules():
            if name.endswith("down_proj"):
                rows = self.kept[name] = []
                module.register_forward_pre_hook(self._append_to(rows))
        return len(self.kept)

    def drop_activations(self) -> int:
        """RPC: forget what is kept; returns how many numbers that was."""
        total = sum(part.numel() for rows in self.kept.values() for part in rows)
        for rows in self.kept.values():
            rows.clear()
        return total

    @staticmethod
    def _append_to(rows: list[Tensor]) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # On a CPU `cpu` copies nothing; vLLM overwrites its tensors, so what is kept must be a copy there too.
            rows.append(inputs[0].detach().to("cpu", copy=True))

        return hook
