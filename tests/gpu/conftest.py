"""Engines on CUDA for the checks of `tests/vllm`, one way of running them after the other."""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.vllm.runs import Shelf, worst

# Inherited by vLLM's processes.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

# In float32, which FlashAttention does not have.
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"enforce_eager": True, "attention_config": {"backend": "FLEX_ATTENTION"}},
    "graphs": {"enforce_eager": False, "attention_config": {"backend": "TRITON_ATTN"}},
}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What is measured beside passing."""
    if worst:
        shown = ", ".join(f"{kind} {departure:.1e}" for kind, departure in sorted(worst.items()))
        terminalreporter.write_line(f"vLLM on CUDA against plain passes on the CPU, largest departures: {shown}")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=sorted(WAYS))
async def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shelf]:
    """As in `tests/vllm`, on CUDA, in each of `WAYS`."""
    kept = Shelf(tmp_path_factory.mktemp("vllm"), device="cuda", arguments=WAYS[request.param])
    yield kept
    await kept.close()
