"""Responses and probes whose numbers can be worked out by hand."""

import math
from dataclasses import replace

import numpy as np

from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.neurons import NeuronSet
from probes.probe import Probe
from probes.risk import RiskModel
from service.engines.base import RowEvidence
from service.guard.response import ModelResponse, ResponseToken

CETT_ALONE = {"cett": 1.0}


COMBINED = {"cett": 0.8, "mean_logprob": -0.3, "min_logprob": -0.4, "max_entropy": 0.2, "length": 0.05}


IDENTITY = Calibration("platt", slope=1.0, offset=0.0)


def make_probe(position="own", locator="response", weights=(2.0, -1.0), risk=CETT_ALONE) -> Probe:
    return Probe(
        name="p",
        version="1",
        neurons=NeuronSet.from_flat((4, 4), np.asarray([1, 6])[: len(weights)]),
        weights=np.asarray(weights, dtype=np.float32),
        norms=np.ones(len(weights), dtype=np.float32),
        intercept=0.5,
        position=position,
        risk_model=RiskModel(risk, intercept=0.0, calibration=IDENTITY),
        domain=Domain({"cett": PartRange(-2.0, 0.0, 2.0), "min_logprob": PartRange(-2.0, -1.0, 0.0)}, cutoff=1.5),
        threshold=0.7,
        locator=locator,
    )


def make_response(text: str, scores, *, neurons=None) -> ModelResponse:
    """A token a character; a row a score."""
    tokens = tuple(
        ResponseToken(ord(c) % 256, c, at, at + 1, logprob=-0.1 * (at + 1), entropy=0.5 * at)
        for at, c in enumerate(text)
    )
    rows = tuple(
        None if score is None else RowEvidence((score,), None if neurons is None else np.asarray(neurons[at]))
        for at, score in enumerate(scores)
    )
    return ModelResponse(text, tokens, rows)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def spoil(response, at, **changes) -> ModelResponse:
    tokens = list(response.tokens)
    tokens[at] = replace(tokens[at], **changes)
    return ModelResponse(response.text, tuple(tokens), response.rows)
