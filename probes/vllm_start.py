"""What serving and training share when they start vLLM: which versions, which model runner, where, in what type.

Imports no vLLM: the check reads the class that it is given.
"""

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probes.models import pick_device, pick_dtype

logger = logging.getLogger(__name__)

SUPPORTED_VLLM = "0.25.1 to 0.32"
"""CI tests 0.32.0; 0.25.1, 0.27.0 and 0.31.0 were tried by hand. On a CPU vLLM's own sampler ignored, up to 0.30, the
seeds of requests that are beside one without a seed."""

_CPU_CACHE_BYTES = 2 << 30
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class IncompatibleVllmError(RuntimeError):
    """This vLLM, or this mode of it, cannot be tapped."""


def start_arguments(folder: Path, dtype: str, device: str) -> tuple[str, dict[str, Any]]:
    """Where vLLM runs, and its engine arguments that say so.

    Args:
        folder: What `probes.models.resolve_model` returned.
        dtype: See `probes.models.load_model`.
        device: `cpu`, `cuda` or `auto`.

    Returns:
        `cpu` or `cuda`, and arguments by their names in vLLM.
    """
    place = pick_device(device)
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": str(pick_dtype(dtype, place)).removeprefix("torch."),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
    }
    if place.type == "cpu":  # vLLM would take nearly all memory for keys and values
        arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return place.type, arguments


@contextmanager
def tappable_runner() -> Iterator[None]:
    """VLLM's processes that start meanwhile take its model runner V1, which all taps are written for.

    Left to itself vLLM takes V2 on CUDA (0.25.1 to 0.28: for models without experts; later: for all). The variable is
    inherited by the processes and not kept in ours.

    Raises:
        IncompatibleVllmError: The operator asks for V2.
    """
    wanted = os.environ.get(_RUNNER)
    if wanted not in (None, "0"):
        raise IncompatibleVllmError(
            f"{_RUNNER}={wanted} asks for a model runner of vLLM that cannot be tapped: unset it, or use transformers "
            "(HGUARD_ENGINE=transformers; train_probe.py --extractor transformers)"
        )
    logger.info("vLLM is started with its model runner V1 (%s=0), which the taps are written for", _RUNNER)
    os.environ[_RUNNER] = "0"
    try:
        yield
    finally:
        if wanted is None:
            del os.environ[_RUNNER]


def check_signatures(owner: type, wanted: Mapping[str, Sequence[str]], version: str) -> None:
    """Methods that we override or call take what we pass on.

    Args:
        owner: A class of vLLM.
        wanted: Parameters of each method, by their names.
        version: Of vLLM, for the message.

    Raises:
        IncompatibleVllmError: Naming what has changed.
    """
    for name, parameters in wanted.items():
        method: Callable[..., Any] | None = getattr(owner, name, None)
        found = list(inspect.signature(method).parameters) if method else None
        if found != list(parameters):
            raise changed(version, f"{owner.__module__}.{owner.__name__}.{name} takes {found}, expected {parameters}")


def changed(version: str, what: str) -> IncompatibleVllmError:
    """The error of a vLLM whose inner parts are others than we know.

    Args:
        version: Of vLLM.
        what: Which part, and how it is.
    """
    return IncompatibleVllmError(
        f"vLLM {version}: {what}; this hguard supports vLLM {SUPPORTED_VLLM} with its model runner V1: install one of "
        "those, or use transformers (HGUARD_ENGINE=transformers; train_probe.py --extractor transformers)"
    )
