"""Which back end `auto` takes, and devices that a back end would not use as they were meant."""

import pytest

from service.engines import registry
from service.engines.registry import EngineChoice, EngineUnavailableError, build_engine


@pytest.fixture
def machine(monkeypatch):
    """`machine(has_vllm, has_cuda)`; engines are their names."""
    monkeypatch.setattr(registry, "_build_transformers", lambda choice: "transformers")
    monkeypatch.setattr(registry, "_build_vllm", lambda choice: "vllm")

    def become(*, has_vllm=True, has_cuda=True):
        monkeypatch.setattr(registry, "_has_vllm", lambda: has_vllm)
        monkeypatch.setattr("torch.cuda.is_available", lambda: has_cuda)

    return become


@pytest.mark.parametrize(
    ("device", "has_vllm", "has_cuda", "name"),
    [
        ("auto", True, True, "vllm"),
        ("cuda", True, True, "vllm"),
        ("cpu", True, True, "transformers"),
        ("auto", False, True, "transformers"),
        ("auto", True, False, "transformers"),
        ("cpu", True, False, "transformers"),
    ],
)
def test_hazard_auto_takes_a_gpu_that_was_not_asked_for(machine, device, has_vllm, has_cuda, name):
    machine(has_vllm=has_vllm, has_cuda=has_cuda)
    assert build_engine("auto", EngineChoice("model", device=device)) == name


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_hazard_vllm_takes_the_first_gpu_for_another(monkeypatch, device):
    monkeypatch.setattr(registry, "_has_vllm", lambda: True)
    for name in ("vllm", "auto"):
        with pytest.raises(EngineUnavailableError, match=rf"HGUARD_DEVICE={device}: .* CUDA_VISIBLE_DEVICES"):
            build_engine(name, EngineChoice("model", device=device))
