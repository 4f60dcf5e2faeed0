"""Fixtures that several test folders share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from service.lifecycle import Parts
from tests.serving import make_parts, serve_in_process


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
