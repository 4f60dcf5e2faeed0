"""Fixtures that several test folders share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from xdist.scheduler import LoadFileScheduling

from service.lifecycle import Parts
from tests.serving import make_parts, serve_in_process

TOGETHER = (
    ("tests/e2e/test_train_probe.py", "tests/e2e/test_trained_artifact.py"),
    *(("tests/vllm/test_exactness.py", f"tests/vllm/test_{name}.py") for name in ("exactness_streams", "http")),
    ("tests/vllm/test_exactness.py", "tests/vllm/test_http_lifecycle.py"),
)
"""Files that share a training run, or a vLLM that has started: the second goes where the first one is."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `-n 2 --dist loadfile`. Marked groups (`loadgroup`) are without effect under pytest 9.2."""
    leaders = {second: first for first, second in TOGETHER}

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return leaders.get(file, file)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """`await serve(parts, **settings)` -> an in-process client."""
    async with AsyncExitStack() as stack:

        async def start(parts: Parts | None = None, **settings: Any) -> httpx.AsyncClient:
            return await stack.enter_async_context(serve_in_process(parts or make_parts(), **settings))

        yield start


@pytest.fixture(autouse=True, scope="session")
def _no_feedback_at_home(tmp_path_factory):
    """Tests that keep labels name a database of their own; the others must not write into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("HGUARD_FEEDBACK_URL", "off")
        yield
