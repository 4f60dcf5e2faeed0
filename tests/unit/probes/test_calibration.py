"""A map from logit to risk must be monotone, stay in [0, 1], and never turn a failure into a low risk."""

import math

import numpy as np
import pytest

from probes.calibration import Calibration

LOGITS = np.linspace(-1e4, 1e4, 4001)
MAPS = [
    Calibration("platt", slope=1.3, offset=-0.2),
    Calibration("platt", slope=1e-6),
    Calibration("isotonic", points=((-1.0, 0.1), (0.0, 0.1), (2.0, 0.9))),
]


@pytest.mark.parametrize("calibration", MAPS)
def test_risk_rises_with_the_logit_and_stays_a_probability(calibration):
    risks = calibration.risks(LOGITS)
    assert (np.diff(risks) >= 0).all()
    assert risks.min() >= 0
    assert risks.max() <= 1


@pytest.mark.parametrize("calibration", MAPS)
def test_no_number_is_never_a_low_risk(calibration):
    assert math.isnan(calibration.risk(math.nan))


@pytest.mark.parametrize("calibration", MAPS)
@pytest.mark.parametrize("logit", [-800.0, -3.0, 0.0, 0.7, 800.0])
def test_one_and_many_logits_give_the_same_risk(calibration, logit):
    assert calibration.risk(logit) == calibration.risks(np.array([0.0, logit]))[1]


def test_platt_is_the_sigmoid_without_overflow():
    calibration = Calibration("platt", slope=2.0, offset=0.5)
    assert calibration.risk(0.3) == pytest.approx(1 / (1 + math.exp(-1.1)), abs=1e-15)
    assert calibration.risk(-1e6) == 0.0
    assert calibration.risk(1e6) == 1.0
    assert calibration.risk(math.inf) == 1.0


def test_isotonic_interpolates_and_is_flat_outside():
    calibration = MAPS[2]
    assert calibration.risks(np.array([-9.0, 1.0, 2.0, 9.0])).tolist() == pytest.approx([0.1, 0.5, 0.9, 0.9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "platt", "slope": 0.0}, "positive finite slope"),
        ({"kind": "platt", "slope": -1.0}, "positive finite slope"),
        ({"kind": "platt", "slope": math.inf}, "positive finite slope"),
        ({"kind": "platt", "slope": 1.0, "offset": math.nan}, "positive finite slope"),
        ({"kind": "isotonic"}, "at least two"),
        ({"kind": "isotonic", "points": ((0.0, 0.5),)}, "at least two"),
        ({"kind": "isotonic", "points": ((0.0, 0.5), (1.0, math.nan))}, "at least two finite"),
        ({"kind": "isotonic", "points": ((0.0, 0.5), (0.0, 0.6))}, "must rise"),
        ({"kind": "isotonic", "points": ((0.0, 0.5), (1.0, 0.4))}, "must rise"),
        ({"kind": "isotonic", "points": ((0.0, -0.1), (1.0, 0.4))}, "must rise"),
        ({"kind": "isotonic", "points": ((0.0, 0.1), (1.0, 1.4))}, "must rise"),
        ({"kind": "beta", "points": ((0.0, 0.1), (1.0, 0.4))}, "'beta' is not one of"),
    ],
)
def test_a_map_that_is_none_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Calibration(**settings)
