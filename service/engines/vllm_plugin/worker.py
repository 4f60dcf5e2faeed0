"""Worker classes that vLLM starts in place of its own (`worker_cls`), and what they answer over RPC."""

from typing import Any

import torch
import vllm
from vllm.distributed import get_tensor_model_parallel_rank, tensor_model_parallel_all_reduce
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from probes.vllm_start import IncompatibleVllmError
from service.engines.vllm_plugin.buffers import ExpertBuffers, TapBuffers
from service.engines.vllm_plugin.compat import check_experts, check_instance, check_layer, check_parts, check_runner
from service.engines.vllm_plugin.expert_wires import tap_experts
from service.engines.vllm_plugin.modes import check_mode
from service.engines.vllm_plugin.row_signals import RowSignals
from service.engines.vllm_plugin.runner import TapRunner
from service.engines.vllm_plugin.step_tap import StepTap
from service.engines.vllm_plugin.tap_config import TapConfig
from service.engines.vllm_plugin.wires import EagerSwitch, tap_module, tap_output, tap_stream


class TapWorker:
    """Mixed into a worker class of vLLM: taps the model after its weights are loaded, before its first pass."""

    tap_runner: type[TapRunner] = TapRunner
    """Mixed into the class of the model runner."""

    def load_model(self, **options: Any) -> None:
        """Load the model and tap it.

        Raises:
            IncompatibleVllmError: This vLLM, mode or model cannot be tapped.
        """
        worker: Any = self
        config = TapConfig.of(worker.vllm_config.additional_config)
        check_mode(worker.vllm_config, vllm.__version__)
        runner = worker.model_runner
        check_runner(type(runner), vllm.__version__)
        draft = SpecDecodeMetadata.make_dummy([[0]], torch.device("cpu"))
        check_parts(CachedRequestState, LogprobsTensors, draft, vllm.__version__)
        super().load_model(**options)  # type: ignore[misc]
        check_instance(runner, vllm.__version__)
        self.hguard_buffers = _tap_model(runner.model, config, worker.vllm_config, worker.device)
        runner.__class__ = type(f"Tapped{type(runner).__name__}", (self.tap_runner, type(runner)), {})
        tap = StepTap(self.hguard_buffers[0], self.hguard_buffers[1], tensor_model_parallel_all_reduce)
        model_config = worker.vllm_config.model_config
        signals = RowSignals(is_compiled=worker.device.type == "cuda" or not model_config.enforce_eager)
        signals.compile(model_config.get_vocab_size(), worker.device, model_config.dtype)
        runner.attach(tap, signals)

    def hguard_write(self, routed: Any, *heads: Any) -> int:
        """RPC: fill a bank, see `TapBuffers.write` and `write_routed`; returns the number of tapped blocks."""
        buffers = self.hguard_buffers[0]
        buffers.write_routed(*routed)
        buffers.write(*heads)
        return len(buffers.blocks)


def _tap_model(
    model: torch.nn.Module, config: TapConfig, vllm_config: Any, device: torch.device
) -> tuple[TapBuffers, EagerSwitch]:
    modules = [_find(model, block.module) for block in config.blocks]
    for block, module in zip(config.blocks, modules, strict=True):
        if block.expert_width:
            check_experts(block.module, module, vllm.__version__)
        else:
            check_layer(block.module, module, gives_h=block.gives_h)
    buffers = TapBuffers(
        config,
        [
            block.width if block.expert_width else int(module.input_size_per_partition)
            for block, module in zip(config.blocks, modules, strict=True)
        ],
        _most_rows(vllm_config),
        rank=get_tensor_model_parallel_rank(),
        size=vllm_config.model_config.get_hidden_size(),
        device=device,
        dtype=vllm_config.model_config.dtype,
    )
    switch = EagerSwitch()
    parts: dict[str, list[int]] = {}
    for at, (block, module, mine) in enumerate(zip(config.blocks, modules, buffers.blocks, strict=True)):
        if not block.gives_h:
            parts.setdefault(block.output, []).append(at)
        if isinstance(mine, ExpertBuffers):
            tap_experts(module.routed_experts, mine, switch, scale=module.routed_scaling_factor)
        else:
            tap_module(module, mine, switch, gives_h=block.gives_h)
    for name, places in parts.items():
        tap_output(_find(model, name), buffers.h_norm[places[0] : places[-1] + 1], switch)
    if config.residual:
        tap_stream(_find(model, config.residual), buffers.stream, buffers.stream_weights, switch)
    return buffers, switch


def _find(model: torch.nn.Module, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise IncompatibleVllmError(
            f"vLLM's {type(model).__name__} has no {name}: its layers are not where transformers has them"
        ) from error


def _most_rows(vllm_config: Any) -> int:
    """Rows of one pass at most: the token budget, or the largest captured graph."""
    captured = getattr(vllm_config.compilation_config, "max_cudagraph_capture_size", None) or 0
    return max(int(vllm_config.scheduler_config.max_num_batched_tokens), int(captured)) + 64
