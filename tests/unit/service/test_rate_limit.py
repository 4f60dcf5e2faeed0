"""Token buckets: a minute's worth at once, then what flows in."""

import pytest

from service.admission.auth import Caller, Limits
from service.admission.rate_limit import RateLimits, whole_seconds


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rates(clock):
    return RateLimits(clock)


def caller(name="a", **limits):
    return Caller(name, frozenset({"infer"}), Limits(**limits))


def test_a_minute_of_requests_then_one_each_interval(rates, clock):
    limited = caller(requests_per_minute=6)
    assert [rates.take_request(limited) for _ in range(6)] == [0] * 6
    assert rates.take_request(limited) == pytest.approx(10)
    clock.now = 9.0
    assert rates.take_request(limited) == pytest.approx(1)
    clock.now = 10.0
    assert rates.take_request(limited) == 0
    clock.now = 1000.0
    assert [rates.take_request(limited) for _ in range(7)] == [0] * 6 + [pytest.approx(10)]


def test_callers_do_not_share(rates):
    assert rates.take_request(caller("a", requests_per_minute=1)) == 0
    assert rates.take_request(caller("b", requests_per_minute=1)) == 0
    assert rates.take_request(caller("a", requests_per_minute=1)) > 0


def test_no_limit_is_no_limit(rates):
    assert all(rates.take_tokens(caller(), 10**9) == 0 for _ in range(10))


def test_hazard_a_request_larger_than_the_bucket_can_never_be_served(rates, clock):
    limited = caller(tokens_per_minute=60)
    assert rates.take_tokens(limited, 180) == 0
    assert rates.take_tokens(limited, 1) == pytest.approx(121)
    clock.now = 121.0
    assert rates.take_tokens(limited, 1) == 0


def test_a_refused_request_takes_nothing(rates, clock):
    limited = caller(tokens_per_minute=60)
    rates.take_tokens(limited, 50)
    assert rates.take_tokens(limited, 20) == pytest.approx(10)
    assert rates.take_tokens(limited, 10) == 0


def test_the_promised_moment_is_late_enough_however_often_one_asks(rates, clock):
    limited = caller(requests_per_minute=7)
    for _ in range(7):
        rates.take_request(limited)
    promised = rates.take_request(limited)
    while clock.now < promised:
        clock.now += promised / 97
        rates.take_tokens(limited, 1)
        if clock.now < promised * 0.99:
            assert rates.take_request(limited) > 0
    assert rates.take_request(limited) == 0


@pytest.mark.parametrize(("seconds", "whole"), [(0.001, 1), (1.0, 1), (1.2, 2), (59.9, 60)])
def test_retry_after_is_whole_and_never_early(seconds, whole):
    assert whole_seconds(seconds) == whole
