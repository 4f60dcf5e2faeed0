"""Fixtures that several test folders share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from service.lifecycle import Parts
from tests.serving import make_parts, serve_in_process

DEAR = ("trained", "engine")
"""Fixtures that take minutes, or a start of vLLM, and that several files of a folder share."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `-n 2 --dist loadgroup`: a file stays on one worker, and with it the files that share something dear."""
    for item in items:
        shared = [item.path.parent / name for name in DEAR if name in getattr(item, "fixturenames", ())]
        item.add_marker(pytest.mark.xdist_group(str((shared or [item.path])[0])))


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
