"""What the engine does with vLLM's errors and with the operator's arguments; needs no vLLM."""

import sys
from types import SimpleNamespace

import pytest

from probes.checkpoint import StoredBlock
from service.engines import vllm_core
from service.engines.base import EngineError
from service.engines.vllm_core import VllmCore
from service.engines.vllm_plugin.tap_config import TapConfig

TAP = TapConfig((StoredBlock("down", "down", 4),), slots=2)


class QueueOverflowError(Exception):
    """Of no class that vLLM 0.25.1 and 0.32 both have."""


@pytest.fixture
def core(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm.inputs", SimpleNamespace(TokensPrompt=dict))
    return VllmCore("cpu", {}, {})


@pytest.mark.parametrize("error", [QueueOverflowError("busy"), ValueError("a parameter"), RuntimeError("dead")])
async def test_hazard_an_error_of_vllm_passes_for_one_of_ours(core, error):
    async def generate(prompt, *args, **options):
        yield "first"
        raise error

    core._vllm = SimpleNamespace(generate=generate)
    outputs = core.outputs([1, 2], None, "name", salt=None)
    assert await anext(outputs) == "first"
    assert core.running == 1
    with pytest.raises(EngineError, match=f"vLLM failed: {error}"):
        await anext(outputs)
    assert core.running == 0


async def test_one_who_leaves_is_no_failure(core):
    closed = []

    async def generate(*args, **options):
        try:
            yield "first"
        finally:
            closed.append(True)

    core._vllm = SimpleNamespace(generate=generate)
    outputs = core.outputs([1], None, "name", salt=None)
    await anext(outputs)
    await outputs.aclose()
    assert closed == [True]
    assert core.running == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scheduling_policy": "fcfs"}, "scheduling_policy"),
        ({"model": "other", "dtype": "float16"}, "dtype, model"),
        ({"worker_cls": "auto", "max_num_seqs": 4}, "worker_cls"),
    ],
)
async def test_hazard_the_operator_changes_what_the_guard_stands_on(monkeypatch, arguments, named):
    monkeypatch.setattr(vllm_core, "_started", lambda arguments: pytest.fail("started"))
    with pytest.raises(EngineError, match=f"HGUARD_VLLM_ARGS sets {named}, which hguard sets itself: take it out"):
        await VllmCore("cpu", {}, arguments).start(TAP)


async def test_what_vllm_is_started_with(monkeypatch):
    seen = []
    monkeypatch.setattr(vllm_core, "_started", seen.append)
    await VllmCore("cpu", {"model": "m", "kv_cache_memory_bytes": 1}, {"kv_cache_memory_bytes": 2}).start(TAP)
    assert seen[0]["kv_cache_memory_bytes"] == 2
    assert seen[0]["scheduling_policy"] == "priority"
    assert seen[0]["additional_config"] == TAP.additional_config()


async def test_hazard_why_vllm_did_not_start_stays_in_a_log(monkeypatch):
    def fails(arguments):
        raise QueueOverflowError("no such mode")

    monkeypatch.setattr(vllm_core, "_started", fails)
    with pytest.raises(EngineError, match="vLLM did not start: no such mode"):
        await VllmCore("cpu", {}, {}).start(TAP)
