"""Back ends by name, imported only when they are chosen: a machine without one of them serves with another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from probes.models import pick_device, resolve_model
from service.engines.base import Engine

FakeFault = Literal["none", "missing_rows", "short_rows", "nan_scores", "crash", "hang"]


class EngineUnavailableError(ValueError):
    """This back end cannot be had here; the message says what can."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What an operator chose, for whichever back end it is."""

    model: str
    """Model reference, see `probes.models`."""
    dtype: str = "auto"
    device: str = "auto"
    max_rows: int = 32
    vllm_slots: int = 64
    vllm_args: dict[str, Any] = field(default_factory=dict)
    fake_step_seconds: float = 0.0
    fake_fault: FakeFault = "none"


def build_engine(name: str, choice: EngineChoice) -> Engine:
    """Load the model into a back end; takes seconds to minutes.

    Args:
        name: `auto`, `transformers`, `vllm` or `fake`.
        choice: Model and machine.

    Raises:
        EngineUnavailableError: The back end is not there.
        ModelReferenceError: The model cannot be had.
    """
    return _BACK_ENDS[name](choice)


def model_name_of(reference: str) -> str:
    """What clients call the model: the reference, or of a path its last part."""
    path = Path(reference).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else reference


def _build_transformers(choice: EngineChoice) -> Engine:
    folder = resolve_model(choice.model)

    from service.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(
        folder,
        model_name=model_name_of(choice.model),
        dtype=choice.dtype,
        device=choice.device,
        max_rows=choice.max_rows,
    )
    return cast(Engine, engine)


def _build_fake(choice: EngineChoice) -> Engine:
    from service.engines.fake import FakeEngine

    return FakeEngine(step_seconds=choice.fake_step_seconds, fault=choice.fake_fault)


def _build_vllm(choice: EngineChoice) -> Engine:
    if not _has_vllm():
        raise EngineUnavailableError(
            "vLLM is not installed here: `make vllm` installs it, or use HGUARD_ENGINE=transformers"
        )
    if pick_device(choice.device).index is not None:
        raise EngineUnavailableError(
            f"HGUARD_DEVICE={choice.device}: vLLM takes the GPUs that it sees, from the first one on: set "
            "CUDA_VISIBLE_DEVICES and HGUARD_DEVICE=cuda, or use HGUARD_ENGINE=transformers"
        )
    folder = resolve_model(choice.model)

    from service.engines.vllm_engine import VllmEngine

    engine = VllmEngine(
        folder,
        model_name=model_name_of(choice.model),
        dtype=choice.dtype,
        device=choice.device,
        max_rows=choice.max_rows,
        slots=choice.vllm_slots,
        arguments=choice.vllm_args,
    )
    return cast(Engine, engine)


def _build_auto(choice: EngineChoice) -> Engine:
    """The vllm engine where vLLM is installed and the device is a GPU, else the transformers engine."""
    is_gpu = pick_device(choice.device).type == "cuda"
    return _build_vllm(choice) if _has_vllm() and is_gpu else _build_transformers(choice)


def _has_vllm() -> bool:
    return find_spec("vllm") is not None


_BACK_ENDS: dict[str, Callable[[EngineChoice], Engine]] = {
    "auto": _build_auto,
    "transformers": _build_transformers,
    "vllm": _build_vllm,
    "fake": _build_fake,
}
