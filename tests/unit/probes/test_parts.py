"""Parts are plain statistics of a set of tokens, and a number that is missing must not hide in one of them."""

import math

import numpy as np
import pytest

from probes.parts import SIGNS, measure_parts


def test_parts_are_the_statistics_of_the_tokens():
    draw = np.random.default_rng(0)
    logits, logprobs, entropies = draw.normal(size=7), -draw.random(7), draw.random(7)
    residuals = draw.normal(size=7)
    assert measure_parts(logits, logprobs, entropies, residuals) == pytest.approx(
        {
            "cett": np.mean(logits),
            "residual": np.mean(residuals),
            "mean_logprob": np.mean(logprobs),
            "min_logprob": np.min(logprobs),
            "mean_entropy": np.mean(entropies),
            "max_entropy": np.max(entropies),
            "length": 7,
        }
    )


def test_one_token_is_its_own_mean_to_the_last_bit():
    parts = measure_parts([0.1], [-1 / 3], [2 / 3])
    assert math.isnan(parts.pop("residual"))
    assert list(parts.values()) == [0.1, -1 / 3, -1 / 3, 2 / 3, 2 / 3, 1]


def test_sums_do_not_depend_on_the_order_of_the_tokens():
    values = [1e16, 1.0, -1e16, 0.1, 0.2]
    found = {measure_parts(order, [-1.0] * 5, [1.0] * 5)["cett"] for order in (values, values[::-1], sorted(values))}
    assert found == {(1.0 + 0.1 + 0.2) / 5}


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_shows_wherever_it_stands(at, bad):
    """Python's min() and max() skip a nan or not, depending on its place."""
    spoilt = [-0.5, -0.25, -0.75]
    spoilt[at] = bad
    fine = [0.5, 0.25, 0.75]
    of_place = ("cett",), ("mean_logprob", "min_logprob"), ("mean_entropy", "max_entropy"), ("residual",)
    for place, names in enumerate(of_place):
        numbers = [fine, fine, fine, fine]
        numbers[place] = spoilt
        parts = measure_parts(*numbers)
        assert {name for name, value in parts.items() if math.isnan(value)} == set(names)


@pytest.mark.parametrize("numbers", [([], [], []), ([1.0], [1.0, 2.0], [1.0]), ([1.0], [1.0], [])])
def test_no_tokens_or_ragged_numbers_are_an_error(numbers):
    with pytest.raises(ValueError, match="parts of"):
        measure_parts(*numbers)


def test_every_part_has_a_sign():
    assert list(measure_parts([0.0], [0.0], [0.0])) == list(SIGNS)
