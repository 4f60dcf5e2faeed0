"""A budget's threshold must keep to its budget on new rows, and its interval must be the exact binomial one."""

import math
from itertools import pairwise

import numpy as np
import pytest

from offline.fitting.budgets import BUDGETS, choose_budgets, exact_interval, quantile_ranks


def binomial(count, n, share):
    return math.comb(n, count) * share**count * (1 - share) ** (n - count)


def make_rows(n=104, m=900, *, seed=0):
    draw = np.random.default_rng(seed)
    risks = np.concatenate([draw.beta(2, 3, n), draw.beta(4, 2, m)])
    labels = np.repeat([0, 1], [n, m])
    order = draw.permutation(n + m)
    return risks[order], labels[order]


def test_of_n_faithful_risks_as_many_are_flagged_as_the_conformal_rank_says():
    risks, labels = make_rows()
    for budget in choose_budgets(risks, labels):
        flagged = int((risks[labels == 0] >= budget.threshold).sum())
        assert flagged == 104 - math.ceil(105 * (1 - budget.fpr) - 1e-9)
        assert (flagged + 1) / 105 <= budget.fpr < (flagged + 2) / 105


@pytest.mark.parametrize(("n", "carried"), [(104, 4), (99, 4), (98, 3), (19, 3), (18, 2), (9, 2), (4, 1), (3, 0)])
def test_a_budget_that_so_few_rows_cannot_vouch_for_is_not_carried(n, carried):
    """With n rows a new one exceeds all of them with a probability of 1 / (n + 1)."""
    risks, labels = make_rows(n)
    assert [budget.fpr for budget in choose_budgets(risks, labels)] == list(BUDGETS[4 - carried :])


def test_new_faithful_responses_are_flagged_at_most_as_often_as_the_budget_says():
    """Over many draws of calibration rows; in any one of them the share varies, as the interval says."""
    draw = np.random.default_rng(1)
    for n in (25, 104):
        shares = {fpr: [] for fpr in BUDGETS}
        for _ in range(400):
            for budget in choose_budgets(draw.random(n), np.zeros(n, dtype=np.int64)):
                shares[budget.fpr].append(1 - budget.threshold)  # of new risks, which are uniform
        for fpr, found in shares.items():
            if found:
                error = np.std(found) / np.sqrt(len(found))
                assert np.mean(found) < fpr + 3 * error
                assert np.mean(found) > fpr - 2 / (n + 1) - 3 * error


@pytest.mark.parametrize("n", [10, 104, 300])
@pytest.mark.parametrize("share", [0.8, 0.9, 0.95, 0.99])
def test_ranks_enclose_the_quantile_by_an_exact_binomial_count(n, share):
    low, high = quantile_ranks(n, share)

    def at_most(count):
        return sum(binomial(k, n, share) for k in range(count + 1))

    assert low == 0 or at_most(low - 1) <= 0.025  # P(fewer than `low` values lie below the quantile)
    assert at_most(low) > 0.025  # the next rank would be too high
    assert high == n + 1 or 1 - at_most(high - 1) <= 0.025
    assert 1 - at_most(high - 2) > 0.025


def test_the_interval_holds_the_true_threshold_as_often_as_it_says():
    draw = np.random.default_rng(2)
    held = dict.fromkeys(BUDGETS, 0)
    for _ in range(600):
        for budget in choose_budgets(draw.random(104), np.zeros(104, dtype=np.int64)):
            held[budget.fpr] += budget.low <= 1 - budget.fpr <= budget.high
    assert min(held.values()) > 600 * 0.93


def test_tied_risks_are_flagged_together_or_not_at_all():
    risks = np.array([0.2] * 10 + [0.6] * 10 + [0.9] * 4)
    (budget,) = choose_budgets(risks, np.array([0] * 20 + [1] * 4), [0.3])
    assert (risks[:20] >= budget.threshold).sum() == 0
    assert (risks[20:] >= budget.threshold).all()
    assert budget.threshold not in risks


def test_thresholds_fall_as_budgets_grow():
    budgets = choose_budgets(*make_rows(), budgets=(0.2, 0.01, 0.1, 0.05))
    assert all(a.fpr < b.fpr and a.threshold >= b.threshold for a, b in pairwise(budgets))


def test_a_risk_of_one_still_leaves_a_threshold():
    (budget,) = choose_budgets(np.ones(10), np.zeros(10, dtype=np.int64), [0.2])
    assert budget.threshold < 1


@pytest.mark.parametrize(("hits", "n"), [(0, 30), (1, 30), (7, 30), (29, 30), (30, 30)])
def test_the_exact_interval_leaves_two_and_a_half_per_cent_on_either_side(hits, n):
    low, high = exact_interval(hits, n)
    assert low <= hits / n <= high
    if hits:
        assert sum(binomial(k, n, low) for k in range(hits, n + 1)) == pytest.approx(0.025)
    if hits < n:
        assert sum(binomial(k, n, high) for k in range(hits + 1)) == pytest.approx(0.025)
