"""The pooled logit is a mean over the tokens of the spans, each once; a probe that makes no sense cannot be built."""

import math

import numpy as np
import pytest

from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.neurons import NeuronSet
from probes.probe import Probe, ResidualHead
from probes.risk import Budget, RiskModel
from probes.spans import AnswerSpan

SETTINGS = {
    "name": "p",
    "version": "1.0.0",
    "neurons": NeuronSet.from_flat((4, 6), np.array([1, 5, 9])),
    "weights": np.array([2.0, -1.0, 0.5], dtype=np.float32),
    "norms": np.array([1.0, 2.0, 3.0], dtype=np.float32),
    "intercept": -0.25,
    "position": "own",
    "risk_model": RiskModel({"cett": 1.0}, intercept=0.0, calibration=Calibration("platt")),
    "domain": Domain({"cett": PartRange(-1.0, 0.0, 1.0)}, cutoff=2.0),
    "threshold": 0.5,
}


def test_h_neurons_are_the_positive_ones():
    probe = Probe(**SETTINGS)
    assert probe.h_neurons.tolist() == [0, 2]
    assert probe.per_mille == pytest.approx(1000 * 2 / 10)


def measure(probe, scores, *spans, logprobs=None, entropies=None):
    n = len(scores)
    return probe.measure(spans, [(score,) for score in scores], logprobs or [-1.0] * n, entropies or [1.0] * n)


def test_the_pooled_logit_is_the_mean_of_the_token_logits_of_the_spans():
    parts = measure(Probe(**SETTINGS), [1.0, 2.0, 4.0, 8.0], AnswerSpan(0, 1), AnswerSpan(2, 4))
    assert parts["cett"] == pytest.approx((0.75 + 3.75 + 7.75) / 3)
    assert parts["length"] == 3


def test_the_residual_logit_is_pooled_from_its_own_scores():
    probe = Probe(**SETTINGS, residual=ResidualHead(2, np.ones(4, dtype=np.float32), intercept=0.5))
    parts = probe.measure([AnswerSpan(0, 2)], [(1.0, 10.0), (3.0, -4.0), (9.0, 9.0)], [-1.0] * 3, [1.0] * 3)
    assert (parts["cett"], parts["residual"]) == (1.75, 3.5)
    missing = probe.measure([AnswerSpan(0, 2)], [(1.0, 10.0), (3.0, math.nan)], [-1.0] * 2, [1.0] * 2)
    assert missing["cett"] == 1.75
    assert math.isnan(missing["residual"])
    assert math.isnan(measure(Probe(**SETTINGS), [1.0], AnswerSpan(0, 1))["residual"])


def test_a_token_of_two_spans_counts_once():
    parts = measure(Probe(**SETTINGS), [1.0, 2.0, 4.0], AnswerSpan(0, 2), AnswerSpan(1, 3))
    assert parts["cett"] == pytest.approx(7 / 3 - 0.25)
    assert parts["length"] == 3


def test_free_signals_are_those_of_the_tokens_in_the_spans():
    parts = measure(
        Probe(**SETTINGS),
        [0.0] * 4,
        AnswerSpan(1, 3),
        logprobs=[-9.0, -1.0, -3.0, -9.0],
        entropies=[9.0, 2.0, 1.0, 9.0],
    )
    assert [parts[name] for name in ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy")] == [-2, -3, 1.5, 2]


def test_the_mean_of_token_logits_is_the_logit_of_the_mean_cett():
    probe = Probe(**SETTINGS)
    cett = np.random.default_rng(0).random((5, 3))
    pooled = measure(probe, list(cett @ probe.weights), AnswerSpan(1, 4))["cett"]
    assert pooled == pytest.approx(cett[1:4].mean(axis=0) @ probe.weights + probe.intercept)


def test_a_token_that_was_not_scored_spoils_its_span_and_no_other():
    probe = Probe(**SETTINGS)
    scores = [1.0, math.nan, 4.0]
    assert math.isnan(measure(probe, scores, AnswerSpan(0, 2))["cett"])
    assert measure(probe, scores, AnswerSpan(2, 3))["cett"] == 3.75


def test_nothing_to_pool_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="no_answer"):
        measure(Probe(**SETTINGS), [1.0] * 3)


def test_half_precision_scores_are_pooled_in_float64():
    scores = np.full(3000, 1.0 + 2**-10, dtype=np.float16)
    assert measure(Probe(**SETTINGS), scores, AnswerSpan(0, 3000))["cett"] == 1.0 + 2**-10 - 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.ones(2, dtype=np.float32)}, "3 neurons"),
        ({"weights": np.ones((3, 1), dtype=np.float32)}, "3 neurons"),
        ({"norms": np.ones(4, dtype=np.float32)}, "3 neurons"),
        ({"weights": np.array([1.0, 0.0, 1.0], dtype=np.float32)}, "not zero"),
        ({"weights": np.array([1.0, np.nan, 1.0], dtype=np.float32)}, "finite"),
        ({"norms": np.array([1.0, 0.0, 1.0], dtype=np.float32)}, "norms must be positive"),
        ({"norms": np.array([1.0, np.inf, 1.0], dtype=np.float32)}, "norms must be positive"),
        ({"intercept": math.nan}, "intercept finite"),
        ({"threshold": 0.0}, "threshold 0.0"),
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"budgets": (Budget(0.1, 0.5, 0.4, 0.6), Budget(0.05, 0.7, 0.6, 0.8))}, "larger budget"),
        ({"budgets": (Budget(0.05, 0.5, 0.4, 0.6), Budget(0.1, 0.7, 0.6, 0.8))}, "larger budget"),
        ({"budgets": (Budget(0.1, 0.5, 0.4, 0.6), Budget(0.1, 0.5, 0.4, 0.6))}, "larger budget"),
        ({"position": "sideways"}, "position rule 'sideways' is not one of own, predicting"),
    ],
)
def test_a_probe_that_makes_no_sense_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        Probe(**{**SETTINGS, **changes})
