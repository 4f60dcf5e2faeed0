"""What to do about a risk: pure decisions over a judged response. Knows no engine, no text and no HTTP."""

from typing import Literal

Policy = Literal["off", "annotate", "flag", "block", "abstain", "suppress", "stop"]
Action = Literal["none", "flagged", "blocked", "abstained", "suppressed", "stopped"]
OnError = Literal["fail_closed", "fail_open"]

HELD: frozenset[Policy] = frozenset({"block", "abstain", "suppress"})
"""Policies under which nothing may leave that was not judged."""
WHOLE: frozenset[Policy] = frozenset({"abstain", "suppress"})
"""Of them those that answer with another text, so that nothing may leave before the whole response was judged."""
WITHHELD: frozenset[Action] = frozenset({"blocked", "abstained"})
"""Actions after which the client sees nothing that the model wrote."""


def is_over(risk: float | None, threshold: float) -> bool:
    """Whether a risk calls for action; a response without a risk has none to act on."""
    return risk is not None and risk >= threshold


def decide(policy: Policy, risk: float | None, threshold: float) -> Action:
    """The action for a judged response.

    Args:
        policy: What the request asked for.
        risk: Of the response that would be served; None where it was not scored.
        threshold: Risk from which to act.

    Returns:
        Under `suppress` the action for a first response that is kept although it is over the threshold: flagged. (That
        the second one is kept is `prefers_second`'s decision.)
    """
    if not is_over(risk, threshold):
        return "none"
    actions: dict[Policy, Action] = {
        "flag": "flagged",
        "block": "blocked",
        "abstain": "abstained",
        "suppress": "flagged",
        "stop": "stopped",
    }
    return actions.get(policy, "none")


def prefers_second(first_risk: float | None, second_risk: float | None) -> bool:
    """Under `suppress`: whether the second response is served. Only a risk that is known and lower wins."""
    return first_risk is not None and second_risk is not None and second_risk < first_risk
