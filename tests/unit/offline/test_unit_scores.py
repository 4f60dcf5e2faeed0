"""Pooling over labelled units: known tokens, numbers worked out by hand."""

import math

import pytest

from offline.longer_text.labelled_text import LabelledRange, LabelledText
from offline.longer_text.unit_scores import ScoredText, score_units
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.risk import RiskModel

RISK = RiskModel({"cett": 2.0, "min_logprob": -0.5}, intercept=-1.0, calibration=Calibration("platt", 1.0, 0.0))
DOMAIN = Domain({"length": PartRange(0.5, 1.0, 2.0)}, cutoff=1.5)
#                  Rome  _is   _old  ._It   _is  _new
STARTS, ENDS = (0, 4, 7, 11, 15, 18), (4, 7, 11, 15, 18, 22)
TEXT = "Rome is old. It is new"
SCORED = ScoredText(
    "s",
    "t",
    n_prompt=3,
    status="scored",
    starts=STARTS,
    ends=ENDS,
    logits=(0.5, 1.0, -0.5, 2.0, 0.0, 1.0),
    logprobs=(-1.0, -0.1, -3.0, -0.2, -0.3, -4.0),
    entropies=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    is_answer=(True, False, True, False, False, False),
)
SENTENCES = (LabelledRange(0, 12, 1), LabelledRange(13, 22, 0))
LABELLED = LabelledText("s", "t", "d", "?", TEXT, "sentence", SENTENCES, marked=((8, 12),))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_a_token_over_the_border_counts_in_both_sentences():
    first, second = score_units(LABELLED, SCORED, "sentence", RISK, DOMAIN)
    assert (first.scores["length"], second.scores["length"]) == (4, 3)
    assert first.scores["probe logit"] == pytest.approx((0.5 + 1.0 - 0.5 + 2.0) / 4)
    assert second.scores["probe logit"] == pytest.approx((2.0 + 0.0 + 1.0) / 3)


def test_every_score_of_a_sentence_is_of_its_own_tokens_and_rises_with_doubt():
    _, second = score_units(LABELLED, SCORED, "sentence", RISK, DOMAIN)
    assert second.scores == pytest.approx(
        {
            "risk": sigmoid(2.0 * 1.0 - 0.5 * -4.0 - 1.0),
            "risk of located tokens": 0.0,
            "probe logit": 1.0,
            "mean log-probability": 4.5 / 3,
            "minimum log-probability": 4.0,
            "mean entropy": 5.0,
            "maximum entropy": 6.0,
            "length": 3.0,
        }
    )


def test_located_risk_leaves_out_the_words_that_claim_nothing():
    first, second = score_units(LABELLED, SCORED, "sentence", RISK, DOMAIN)
    assert first.scores["risk of located tokens"] == pytest.approx(sigmoid(2.0 * 0.0 - 0.5 * -3.0 - 1.0))
    assert (first.has_claim, second.has_claim) == (True, False)


def test_units_that_are_longer_than_the_probe_knows_are_out_of_its_domain():
    units = score_units(LABELLED, SCORED, "sentence", RISK, DOMAIN)
    assert [unit.is_outside for unit in units] == [True, True]
    assert not any(unit.is_outside for unit in score_units(LABELLED, SCORED, "token", RISK, DOMAIN))


def test_tokens_are_labelled_by_the_marked_characters_that_they_hold():
    tokens = list(score_units(LABELLED, SCORED, "token", RISK, DOMAIN))
    assert [token.label for token in tokens] == [0, 0, 1, 1, 0, 0]
    assert [token.scores["mean entropy"] for token in tokens] == list(SCORED.entropies)
    assert tokens[5].scores["risk"] == pytest.approx(sigmoid(2.0 * 1.0 + 0.5 * 4.0 - 1.0))
