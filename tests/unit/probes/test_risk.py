"""A risk must be the combination that it says, never fall with doubt, and never be low because a part is missing."""

import math

import numpy as np
import pytest

from probes.calibration import Calibration
from probes.parts import SIGNS
from probes.risk import Budget, RiskModel

WEIGHTS = {"cett": 1.25, "min_logprob": -0.75, "max_entropy": 0.5, "length": -0.03}
PARTS = {
    "cett": 0.4,
    "residual": -0.8,
    "mean_logprob": -1.0,
    "min_logprob": -2.5,
    "mean_entropy": 1.5,
    "max_entropy": 3.0,
    "length": 4.0,
}
MAPS = [
    Calibration("platt", slope=0.8, offset=1.5),
    Calibration("isotonic", points=((-2.0, 0.1), (0.0, 0.4), (4.0, 0.9))),
]


def make(calibration=MAPS[0], **changes):
    return RiskModel(**{"weights": WEIGHTS, "intercept": -0.5, "calibration": calibration, **changes})


def test_the_risk_is_the_calibrated_weighted_sum_of_its_parts():
    logit = -0.5 + 1.25 * 0.4 + 0.75 * 2.5 + 0.5 * 3.0 - 0.03 * 4.0
    assert make().logit(PARTS) == pytest.approx(logit)
    assert make().risk(PARTS) == pytest.approx(1 / (1 + math.exp(-(0.8 * logit + 1.5))))
    assert make(MAPS[1]).risk(PARTS) == pytest.approx(np.interp(logit, [-2, 0, 4], [0.1, 0.4, 0.9]))


@pytest.mark.parametrize("calibration", MAPS)
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_part_that_is_missing_or_not_finite_gives_no_risk(calibration, part, bad):
    """Infinity in a tanh, or beyond the last isotonic point, would be a risk that looks sure of itself."""
    parts = {name: value for name, value in PARTS.items() if name != part}
    if bad is not None:
        parts[part] = bad
    assert math.isnan(make(calibration).risk(parts))


@pytest.mark.parametrize("part", ["mean_logprob", "mean_entropy"])
def test_a_part_that_is_not_used_cannot_spoil_the_risk(part):
    assert make().risk({**PARTS, part: math.nan}) == make().risk(PARTS)


@pytest.mark.parametrize("calibration", MAPS)
def test_less_certainty_never_looks_safer(calibration):
    for part, sign in SIGNS.items():
        values = [make(calibration).risk({**PARTS, part: PARTS[part] + step}) for step in np.linspace(-9, 9, 50)]
        steps = np.diff(values)
        assert sign == 0 or (steps * sign >= 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {}}, "at least one part"),
        ({"weights": {"cett": -1.0}}, "weight -1.0 of cett"),
        ({"weights": {"cett": 1.0, "min_logprob": 0.5}}, "weight 0.5 of min_logprob"),
        ({"weights": {"cett": 1.0, "max_entropy": -0.5}}, "weight -0.5 of max_entropy"),
        ({"weights": {"cett": 0.0}}, "not zero"),
        ({"weights": {"cett": math.nan}}, "finite"),
        ({"weights": {"luck": 1.0}}, "part 'luck' is not one of cett, "),
        ({"intercept": math.inf}, "intercept inf"),
    ],
)
def test_a_combination_that_could_reward_uncertainty_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_length_may_weigh_either_way():
    assert make(weights={"length": 0.1}).logit(PARTS) > make(weights={"length": -0.1}).logit(PARTS)


@pytest.mark.parametrize(
    "numbers", [(0.0, 0.5, 0.4, 0.6), (1.0, 0.5, 0.4, 0.6), (0.1, 1.0, 0.9, 1.0), (0.1, 0.0, 0.0, 0.1)]
)
def test_a_budget_outside_its_bounds_cannot_be_built(numbers):
    with pytest.raises(ValueError, match="budget"):
        Budget(*numbers)


@pytest.mark.parametrize("interval", [(0.6, 0.7), (0.3, 0.4), (-0.1, 0.7), (0.4, 1.1), (math.nan, 0.7)])
def test_a_threshold_outside_its_interval_cannot_be_built(interval):
    with pytest.raises(ValueError, match="not risks in order"):
        Budget(0.05, 0.5, *interval)
