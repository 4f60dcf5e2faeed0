"""The service over an engine of the shelf's, in the event loop of vLLM, and how its tests ask it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from service.app import create_app
from service.lifecycle import Parts
from service.settings import Settings
from tests.serving import wait_until
from tests.vllm.runs import QUESTIONS, TOLERANCE

RISK_TOLERANCE = 1e-3


class Started:
    """An engine of the shelf's, which the application neither starts nor closes."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def start(self, expected):
        pass

    async def close(self):
        pass


@asynccontextmanager
async def serve_here(parts: Parts, **settings) -> AsyncIterator[str]:
    """A uvicorn server on loopback in this event loop, which is vLLM's; yields its address."""
    app = create_app(Settings(engine="fake", **settings), parts)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    running = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started or running.done(), 60)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def body(question=QUESTIONS[0], *, sampling=None, guard=None, **more):
    return {
        "prompt": question,
        "sampling": {"max_tokens": 24, **(sampling or {})},
        "guard": {"return_tokens": True, **(guard or {})},
        **more,
    }


async def post(client, path, sent):
    answer = await client.post(path, json=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_near(found, wanted, name=""):
    """Equal but for rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(is_near(found[key], wanted[key], key) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(is_near(a, b, name) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, float):
        return found == pytest.approx(wanted, abs=RISK_TOLERANCE if "risk" in name else TOLERANCE)
    return found == wanted
