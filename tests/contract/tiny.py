"""A tiny Llama of random weights over bytes, with a probe whose golden trace comes from one plain forward pass."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes.artifact import GoldenTrace, ProbeArtifact
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.fingerprint import fingerprint_model
from probes.neurons import NeuronSet
from probes.positions import PositionRule, sequence_slice
from probes.probe import Probe
from probes.risk import Budget, RiskModel
from probes.tap import HeadTap
from service.engines.fake import fake_tokenizer
from service.lifecycle import Parts

WIDTHS = (64, 64)


def save_tiny(folder: Path) -> Path:
    """Model and tokenizer as transformers loads them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=len(WIDTHS),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=256,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fake_tokenizer().save_pretrained(folder)
    return folder


def make_tiny_parts(folder: Path, position: PositionRule) -> Parts:
    """The transformers engine on it, and a probe with random weights."""
    from service.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine(folder, model_name="tiny", dtype="float32", device="cpu", max_rows=8)
    return Parts(engine, make_tiny_artifact(engine, position))


def make_tiny_artifact(engine: Any, position: PositionRule, *, version: str = "1", first: int = 3) -> ProbeArtifact:
    """A probe on every eleventh neuron from `first` on."""
    model, tokenizer = engine.model, engine.tokenizer
    neurons = NeuronSet.from_flat(WIDTHS, np.arange(first, sum(WIDTHS), 11))
    weights = np.random.default_rng(first - 3).normal(size=len(neurons)).astype(np.float32) * 4
    tap = HeadTap(model, neurons)
    probe = Probe(
        name="tiny",
        version=version,
        neurons=neurons,
        weights=weights,
        norms=tap.norms.detach().numpy().astype(np.float32),
        intercept=0.2,
        position=position,
        risk_model=RiskModel(
            {
                "cett": 0.8,
                "mean_logprob": -0.1,
                "min_logprob": -0.2,
                "mean_entropy": 0.1,
                "max_entropy": 0.2,
                "length": 0.01,
            },
            intercept=-1.5,
            calibration=Calibration("platt", slope=1.2, offset=-0.1),
        ),
        domain=Domain({"cett": PartRange(-3.0, 0.0, 3.0), "length": PartRange(1.0, 5.0, 9.0)}, cutoff=1.5),
        threshold=0.5,
        budgets=(Budget(0.05, threshold=0.9, low=0.8, high=1.0),),
        locator="response",
    )
    golden = _golden(model, tap, probe)
    return ProbeArtifact(probe, fingerprint_model(model, tokenizer), golden, sha256="1" * 64)


@torch.inference_mode()
def _golden(model: nn.Module, tap: HeadTap, probe: Probe) -> GoldenTrace:
    prompt, response = tuple(range(40, 52)), (70, 81, 64, 72, 82)
    ids = torch.tensor([[*prompt, *response]])
    with tap.attached():
        tap.begin(1, last=None)
        model(input_ids=ids)
        cett = tap.read().cett[0].numpy()
    scores = (cett @ probe.weights)[sequence_slice(len(prompt), len(response), probe.position)]
    return GoldenTrace((prompt,), (response,), (scores.astype(np.float32)[:, None],))
