"""How vLLM is started; needs no vLLM."""

import os

import pytest

from probes.vllm_start import IncompatibleVllmError, check_signatures, start_arguments, tappable_runner

NAME = "VLLM_USE_V2_MODEL_RUNNER"


@pytest.mark.parametrize("before", [None, "0"])
def test_hazard_vllm_takes_a_runner_that_is_not_tapped(monkeypatch, before):
    monkeypatch.delenv(NAME, raising=False) if before is None else monkeypatch.setenv(NAME, before)
    with tappable_runner():
        assert os.environ[NAME] == "0"
    assert os.environ.get(NAME) == before
    with pytest.raises(ZeroDivisionError), tappable_runner():
        _ = 1 / 0
    assert os.environ.get(NAME) == before


def test_an_operator_who_asks_for_the_other_runner_is_told(monkeypatch):
    monkeypatch.setenv(NAME, "1")
    with (
        pytest.raises(IncompatibleVllmError, match=f"{NAME}=1 asks for a model runner .*: unset it"),
        tappable_runner(),
    ):
        pytest.fail("started")
    assert os.environ[NAME] == "1"


def test_only_on_a_cpu_the_cache_is_bounded(tmp_path):
    place, arguments = start_arguments(tmp_path, "auto", "cpu")
    assert (place, arguments["dtype"], arguments["kv_cache_memory_bytes"]) == ("cpu", "float32", 2 << 30)
    place, arguments = start_arguments(tmp_path, "auto", "cuda")
    assert (place, arguments["dtype"]) == ("cuda", "bfloat16")
    assert "kv_cache_memory_bytes" not in arguments


def test_hazard_a_vllm_that_has_changed():
    class Runner:
        def _prepare_inputs(self, scheduler_output, num_scheduled_tokens): ...

    wanted = {"_prepare_inputs": ("self", "scheduler_output", "num_scheduled_tokens")}
    check_signatures(Runner, wanted, "1.0")
    changed = type("Runner", (Runner,), {"_prepare_inputs": lambda self, batch: None})
    with pytest.raises(
        IncompatibleVllmError, match=r"vLLM 1\.0: .*_prepare_inputs takes .*'batch'.*--extractor transformers"
    ):
        check_signatures(changed, wanted, "1.0")
    with pytest.raises(IncompatibleVllmError, match="_prepare_inputs takes None"):
        check_signatures(type("Runner", (Runner,), {"_prepare_inputs": None}), wanted, "1.0")
