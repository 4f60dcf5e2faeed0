"""What lies outside the training rows must be said, on either side; a missing part is neither inside nor outside."""

import math

import pytest

from probes.domain import Domain, PartRange

# The shipped probe's own ranges, to two digits.
RANGES = {
    "cett": PartRange(-1.47, 0.22, 1.77),
    "mean_logprob": PartRange(-2.65, -1.04, -0.09),
    "min_logprob": PartRange(-3.18, -1.52, -0.10),
    "mean_entropy": PartRange(0.48, 3.09, 5.45),
    "max_entropy": PartRange(0.59, 4.16, 6.24),
    "length": PartRange(1.0, 2.0, 10.0),
}
DOMAIN = Domain(RANGES, cutoff=1.71)
TYPICAL = {
    "cett": 0.3,
    "mean_logprob": -0.9,
    "min_logprob": -1.4,
    "mean_entropy": 2.9,
    "max_entropy": 4.4,
    "length": 3.0,
}


def test_the_distance_is_that_of_the_farthest_part_in_units_of_its_own_side():
    assert Domain(RANGES, 1.71).distance({name: found.median for name, found in RANGES.items()}) == 0
    assert DOMAIN.distance({**TYPICAL, "length": 10.0}) == pytest.approx(1.0)
    assert DOMAIN.distance({**TYPICAL, "length": 18.0}) == pytest.approx(2.0)
    assert DOMAIN.distance({**TYPICAL, "min_logprob": -1.52 - 3 * 1.66}) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 180.0},  # a summary of a page
        {"cett": 6.4},  # another kind of text moves the H-neurons as a whole
        {"cett": -4.1},
        {"mean_logprob": -6.2, "min_logprob": -14.0, "mean_entropy": 8.9, "max_entropy": 10.4},  # another language
    ],
)
def test_numbers_of_another_kind_of_text_are_outside(changes):
    assert DOMAIN.is_outside({**TYPICAL, **changes}) is True


@pytest.mark.parametrize("changes", [{}, {"length": 1.0}, {"length": 12.0}, {"cett": 1.9}, {"min_logprob": -0.02}])
def test_the_edges_of_the_training_rows_are_inside(changes):
    assert DOMAIN.is_outside({**TYPICAL, **changes}) is False


@pytest.mark.parametrize("part", RANGES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_part_that_is_not_finite_is_neither_inside_nor_outside(part, bad):
    assert DOMAIN.is_outside({**TYPICAL, part: bad}) is None
    assert DOMAIN.is_outside({name: value for name, value in TYPICAL.items() if name != part}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranges": {}}, "at least one part"),
        ({"ranges": {"luck": PartRange(0, 1, 2)}}, "part 'luck'"),
        ({"ranges": {"cett": PartRange(0, 0, 2)}}, "must be finite and rise"),
        ({"ranges": {"cett": PartRange(0, math.nan, 2)}}, "must be finite and rise"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": math.inf}, "cutoff"),
    ],
)
def test_a_domain_that_makes_no_sense_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        Domain(**{"ranges": RANGES, "cutoff": 1.71, **changes})
