"""An application over the fake engine, in process and on a real port, and how to read its streams."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.lifecycle import Parts
from service.settings import Settings

QUESTION = "What is the capital of France?"


def make_parts(*, position="own", locator="lexical", threshold=0.5, **engine: Any) -> Parts:
    """A fake engine and its probe."""
    return Parts(FakeEngine(**engine), fake_artifact(position=position, locator=locator, threshold=threshold))


@asynccontextmanager
async def serve_in_process(parts: Parts | None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that runs in this event loop; it cannot disconnect."""
    app = create_app(Settings(**{"engine": "fake", **settings}), parts)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


@contextmanager
def serve_on_port(parts: Parts, *, send_buffer: int | None = None, **settings: Any) -> Iterator[str]:
    """A uvicorn server on loopback, in a thread; yields its address.

    Args:
        parts: Engine and probe.
        send_buffer: Bytes that the kernel takes of what a client does not read; None: megabytes.
        settings: Of the service.
    """
    app = create_app(Settings(**{"engine": "fake", **settings}), parts)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(1000):
        if server.started:
            break
        thread.join(0.01)
    assert server.started
    if send_buffer is not None:  # connections inherit it
        with socket.socket(fileno=os.dup(server.servers[0].sockets[0].fileno())) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def read_events(text: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    """(name, id, data) of each event of a whole stream."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return events


async def becomes(client: httpx.AsyncClient, status: int, reason: str = "", seconds: float = 5.0) -> None:
    """Wait for what /readyz is to say."""
    for _ in range(int(seconds / 0.005)):
        ready = await client.get("/readyz")
        if ready.status_code == status and (not reason or any(reason in line for line in ready.json()["reasons"])):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"/readyz is not {status} {reason}: {ready.text}")


async def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that another thread or task does."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")
