"""A probe artifact of a tiny Llama, with a golden trace from plain forward passes."""

import numpy as np
import torch

from probes.artifact import GoldenTrace, ProbeArtifact
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.fingerprint import fingerprint_model
from probes.neurons import NeuronSet
from probes.positions import sequence_slice
from probes.probe import Probe
from probes.reducing_tap import ReducingTap
from probes.risk import Budget, RiskModel
from probes.tap import HeadTap
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import tiny_tokenizer

PROMPTS, RESPONSES = ((40, 41, 42, 43), (50, 51)), ((60, 61, 62), (70, 71, 72, 73))


def build_model(**changes):
    """A fresh tiny Llama over `tiny_tokenizer`."""
    return build_tiny("Llama", **{"vocab_size": len(tiny_tokenizer()), "seed": 3, **changes})


@torch.inference_mode()
def score_golden(model, probe, golden_ids=(PROMPTS, RESPONSES), *, rule=None):
    """Scores of the heads [T, N] for the golden sequences, each alone."""
    tap = HeadTap(model, probe.neurons)
    scores = []
    for prompt, response in zip(*golden_ids, strict=True):
        with tap.attached():
            tap.begin(1, last=None)
            output = model(input_ids=torch.tensor([prompt + response]), use_cache=False, output_hidden_states=True)
            heads = [tap.read().scores(torch.from_numpy(probe.weights)[None])[0, :, 0].numpy()]
        if probe.residual is not None:
            heads.append(output.hidden_states[probe.residual.layer + 1][0].numpy() @ probe.residual.weights)
        at = sequence_slice(len(prompt), len(response), rule or probe.position)
        scores.append(np.stack(heads, axis=1)[at].astype(np.float32))
    return scores


def make_risk(calibration=None):
    """A risk of two parts whose numbers have no short binary form."""
    return RiskModel(
        {"cett": 1 / 3, "min_logprob": -0.7}, intercept=-0.1, calibration=calibration or Calibration("platt", slope=1.5)
    )


DOMAIN = Domain({"cett": PartRange(-1 / 3, 0.1, 0.7), "length": PartRange(0.8, 2.0, 11.0)}, cutoff=1.7)
BUDGETS = (Budget(0.05, threshold=0.9, low=0.7, high=1.0), Budget(0.2, threshold=0.1 + 0.2, low=0.0, high=0.4))


def make_artifact(model, *, position="own", calibration=None, card=None, name="tiny", version="1.0.0", **changes):
    """A probe of 12 neurons in all layers."""
    widths = ReducingTap(model).widths
    neurons = NeuronSet.from_flat(widths, np.arange(5, sum(widths), 12))
    probe = Probe(
        name=name,
        version=version,
        neurons=neurons,
        weights=np.random.default_rng(0).normal(size=len(neurons)).astype(np.float32) * 20,
        norms=HeadTap(model, neurons).norms.numpy(),
        intercept=-0.123456789012345,
        position=position,
        risk_model=make_risk(calibration),
        domain=DOMAIN,
        threshold=0.625,
        budgets=BUDGETS,
        **changes,
    )
    return ProbeArtifact(
        probe=probe,
        model=fingerprint_model(model, tiny_tokenizer(), name="tiny-llama"),
        golden=GoldenTrace(PROMPTS, RESPONSES, tuple(score_golden(model, probe))),
        card=card if card is not None else {"auroc": [0.8, 0.7, 0.9], "text": "é", "missing": None},
    )
