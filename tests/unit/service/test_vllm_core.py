"""How vLLM is started; needs no vLLM."""

import os

import pytest

from service.engines.base import EngineError
from service.engines.vllm_core import tappable_runner

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
    with pytest.raises(EngineError, match=f"{NAME}=1 asks for a model runner .*: unset it"), tappable_runner():
        pytest.fail("started")
    assert os.environ[NAME] == "1"
