"""One vLLM at a time: engines are kept until a test asks for one of another configuration; and the service over one."""

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

# Read by vLLM when it is imported, and inherited by its processes.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from probes.artifact import ProbeArtifact
from probes.registry import find_probe
from service.engines.vllm_engine import VllmEngine
from service.lifecycle import Parts
from tests.probe_library import SETTINGS, turned, write_library
from tests.vllm.runs import Shelf, default_folder, worst
from tests.vllm.served import Started, serve_here

ORDER = (
    *("exactness", "exactness_streams", "http", "http_lifecycle"),
    *("scheduling", "compiled", "families", "loud_failure", "experts", "parallel", "sampler", "extract"),
)
"""Files that use the same engine follow one another: a start takes as long as most tests of a file together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put this folder's files into `ORDER`, and others behind."""
    places = {f"test_{name}": place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.stem, len(ORDER)) if item.path.parent.name == "vllm" else -1)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells what it has measured."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["worst"] = {kind: float(departure) for kind, departure in worst.items()}


def pytest_testnodedown(node: Any) -> None:
    """And is heard."""
    for kind, departure in getattr(node, "workeroutput", {}).get("worst", {}).items():
        worst[kind] = max(worst.get(kind, 0.0), departure)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What is measured beside passing."""
    if worst:
        shown = ", ".join(f"{kind} {departure:.1e}" for kind, departure in sorted(worst.items()))
        terminalreporter.write_line(f"vLLM against plain passes, largest departures: {shown}")


_shelves: list[Shelf] = []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shelf(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shelf]:
    """`await shelf.get(folder, **options)` -> a started engine."""
    kept = Shelf(tmp_path_factory.mktemp("vllm"))
    _shelves.append(kept)
    yield kept
    await kept.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def no_other_vllm(request: pytest.FixtureRequest) -> None:
    """A test that starts its own vLLM has the memory and the cores for itself."""
    if "shelf" not in request.fixturenames:
        for kept in _shelves:
            await kept.close()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def engine(shelf: Shelf) -> VllmEngine:
    """The default model's, for the service."""
    engine = await shelf.get(default_folder(), arguments={"block_size": 32})
    engine._banks.current = None  # the shelf's own heads are for nobody here, and would keep one of the banks
    return engine


@pytest.fixture(scope="module")
def artifact(engine: VllmEngine) -> ProbeArtifact:
    """The shipped probe."""
    return find_probe("default", engine.fingerprint())


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def address(
    engine: VllmEngine, artifact: ProbeArtifact, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """A service over it that may switch to the turned probe."""
    folder = write_library(tmp_path_factory.mktemp("probes"), artifact, turned(artifact, "turned"))
    async with serve_here(Parts(Started(engine), artifact), probes_dir=folder, **SETTINGS) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def client(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, timeout=300) as client:
        yield client
