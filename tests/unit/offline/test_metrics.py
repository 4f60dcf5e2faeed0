"""Metrics against slow definitions written anew, with ties; ties must not be settled by the order of the rows."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score

from offline import metrics
from offline.metrics import (
    Interval,
    accuracy_at,
    aurc,
    auroc,
    bootstrap,
    bootstrap_difference,
    brier,
    ece,
    length_correlation,
    recall_at_fpr,
    summarise,
)


def make_scores(seed, *, n=60, apart=1.0, levels=None):
    """Scores of two overlapping classes; `levels` rounds them so that many are tied."""
    draw = np.random.default_rng(seed)
    labels = (draw.random(n) < 0.4).astype(np.int64)
    labels[:2] = 0, 1
    scores = draw.normal(size=n) + apart * labels
    return (scores if levels is None else np.round(scores * levels) / levels), labels


CASES = [make_scores(seed, levels=levels) for seed in range(4) for levels in (None, 1)]


def slow_auroc(scores, labels):
    pairs = [
        (a, b) for a, la in zip(scores, labels, strict=True) for b, lb in zip(scores, labels, strict=True) if la > lb
    ]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize(("scores", "labels"), CASES)
def test_auroc_counts_pairs(scores, labels):
    assert auroc(scores, labels) == pytest.approx(slow_auroc(scores, labels), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_of_one_class_is_an_error_and_not_nan():
    with pytest.raises(ValueError, match="one of the two classes is empty"):
        auroc(np.arange(3.0), np.ones(3, dtype=np.int64))
    with pytest.raises(ValueError, match="one of the two classes is empty"):
        bootstrap(brier, np.zeros(3), np.zeros(3, dtype=np.int64))


@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.29, 0.5])
@pytest.mark.parametrize(("scores", "labels"), CASES)
def test_recall_is_the_best_that_the_false_positives_allow(scores, labels, fpr):
    best = 0.0
    for cut in scores:  # flag what is above some faithful score
        if labels[scores == cut].min() == 0 and (scores[labels == 0] > cut).mean() <= fpr + 1e-12:
            best = max(best, float((scores[labels == 1] > cut).mean()))
    assert recall_at_fpr(scores, labels, fpr=fpr) == pytest.approx(best)


def test_recall_spends_all_false_positives_that_are_allowed():
    scores = np.concatenate([np.arange(10.0), [8.5, 9.5]])
    labels = np.array([0] * 10 + [1, 1])
    assert recall_at_fpr(scores, labels) == 1.0  # one of ten faithful ones, 9.0, may be flagged


def slow_aurc(scores, labels):
    """Mean over every order that sorts the scores."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] <= scores[b] for a, b in itertools.pairwise(order)):
            found.append(np.mean([labels[list(order[:k])].mean() for k in range(1, len(order) + 1)]))
    return np.mean(found)


@pytest.mark.parametrize("seed", range(5))
def test_aurc_is_the_mean_over_all_orders_of_ties(seed):
    draw = np.random.default_rng(seed)
    scores, labels = draw.integers(0, 3, 7).astype(float), draw.integers(0, 2, 7)
    assert aurc(scores, labels) == pytest.approx(slow_aurc(scores, labels))


def test_rows_sorted_by_class_do_not_change_a_tied_score():
    labels = np.array([0] * 50 + [1] * 50)
    same, shuffled = np.full(100, 0.5), np.random.default_rng(0).permutation(100)
    assert aurc(same, labels) == pytest.approx(0.5)
    assert ece(same, labels) == pytest.approx(0.0)
    scores, labels = make_scores(0, n=200, levels=1)
    risks = 1 / (1 + np.exp(-scores))
    shuffled = np.random.default_rng(0).permutation(200)
    in_classes = np.argsort(labels, kind="stable")
    for metric in (aurc, ece):
        assert metric(risks[shuffled], labels[shuffled]) == pytest.approx(metric(risks[in_classes], labels[in_classes]))


def slow_ece(risks, labels, bins):
    order = sorted(range(len(risks)), key=lambda i: risks[i])
    size, extra = divmod(len(order), bins)
    total, at = 0.0, 0
    for b in range(bins):
        rows = order[at : at + size + (b < extra)]
        at += len(rows)
        if rows:
            gap = sum(risks[i] for i in rows) / len(rows) - sum(labels[i] for i in rows) / len(rows)
            total += len(rows) / len(order) * abs(gap)
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [7, 60, 101])
def test_ece_is_the_weighted_gap_of_equal_count_bins(seed, n):
    scores, labels = make_scores(seed, n=n)
    risks = 1 / (1 + np.exp(-scores))
    assert ece(risks, labels) == pytest.approx(slow_ece(risks, labels, 10))


def test_ece_of_honest_risks_is_small_and_of_boasting_ones_large():
    draw = np.random.default_rng(0)
    risks = draw.random(20_000)
    labels = (draw.random(20_000) < risks).astype(np.int64)
    assert ece(risks, labels) < 0.02
    assert ece(risks**4, labels) > 0.2


def test_brier_and_accuracy():
    risks, labels = np.array([0.1, 0.8, 0.5]), np.array([0, 1, 0])
    assert brier(risks, labels) == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    assert accuracy_at(0.5)(risks, labels) == pytest.approx(2 / 3)  # the threshold itself flags
    assert accuracy_at(0.51)(risks, labels) == 1.0


def test_length_correlation_is_spearman_within_each_class():
    draw = np.random.default_rng(0)
    scores, labels = make_scores(0, n=80)
    lengths = draw.integers(1, 6, 80).astype(float)  # many ties
    found = length_correlation(scores, lengths, labels)
    for name, label in (("faithful", 0), ("hallucinated", 1)):
        rows = labels == label
        assert found[name] == pytest.approx(spearmanr(scores[rows], lengths[rows]).statistic, abs=1e-4)


def test_length_correlation_of_equal_lengths_is_zero_and_not_nan():
    scores, labels = make_scores(0)
    assert length_correlation(scores, np.full(60, 4.0), labels) == {"faithful": 0.0, "hallucinated": 0.0}


# Bootstrap


def test_the_interval_covers_the_known_auroc_about_as_often_as_it_says():
    apart = 1.2
    truth = norm.cdf(apart / math.sqrt(2))
    inside = 0
    for seed in range(80):
        found = bootstrap(auroc, *make_scores(seed, n=120, apart=apart), seed=seed, resamples=150)
        assert found.low <= found.value <= found.high
        inside += found.low <= truth <= found.high
    assert inside >= 66  # 95% of 80 is 76


def test_the_interval_of_a_difference_is_paired():
    scores, labels = make_scores(0, n=200)
    nearly = scores + np.random.default_rng(1).normal(size=200) * 0.01
    found = bootstrap_difference(auroc, scores, nearly, labels)
    alone = bootstrap(auroc, scores, labels)
    assert found.low <= 0 <= found.high
    assert found.high - found.low < (alone.high - alone.low) / 5
    assert bootstrap_difference(auroc, scores, scores, labels) == Interval(0.0, 0.0, 0.0)


def test_resamples_keep_both_classes_and_are_repeatable():
    labels = np.array([0, 1, 1, 1, 1])
    for rows in metrics.resample(labels, seed=0, resamples=50):
        assert (labels[rows] == 0).sum() == 1
        assert (labels[rows] == 1).sum() == 4
    scores = np.arange(5.0)
    assert bootstrap(auroc, scores, labels, seed=3) == bootstrap(auroc, scores, labels, seed=3)


def test_the_summary_is_ready_for_json():
    found = summarise(*make_scores(0))
    assert set(found) == {"auroc", "recall_at_10_fpr", "aurc"}
    assert all(len(triple) == 3 and triple[1] <= triple[0] <= triple[2] for triple in found.values())
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
