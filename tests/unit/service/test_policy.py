"""Decisions."""

import pytest

from service.guard.policy import decide, is_over, prefers_second


@pytest.mark.parametrize(
    ("policy", "action"),
    [
        ("off", "none"),
        ("annotate", "none"),
        ("flag", "flagged"),
        ("block", "blocked"),
        ("abstain", "abstained"),
        ("suppress", "flagged"),
        ("stop", "stopped"),
    ],
)
def test_action_over_the_threshold(policy, action):
    assert decide(policy, 0.8, 0.7) == action
    assert decide(policy, 0.6, 0.7) == "none"


def test_a_response_without_a_risk_is_not_acted_on():
    assert not is_over(None, 0.01)
    assert decide("block", None, 0.5) == "none"


def test_the_threshold_itself_counts_as_over():
    """`Probe.threshold` is the risk from which a response is flagged."""
    assert is_over(0.7, 0.7)


@pytest.mark.parametrize(
    ("first", "second", "wins"), [(0.9, 0.2, True), (0.9, 0.9, False), (0.9, None, False), (0.2, 0.9, False)]
)
def test_suppression_keeps_the_lower_known_risk(first, second, wins):
    assert prefers_second(first, second) is wins
