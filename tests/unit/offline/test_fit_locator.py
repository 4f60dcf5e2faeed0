"""The locator head: which layer, which threshold, and what it may see."""

import numpy as np
import pytest

from offline.fitting.choose import FOLDS, fold_of
from offline.locating.fit import LocatorTokens, fit_locator
from offline.locating.token_rows import TokenRows


def make_rows(n=240, *, seed=0):
    """Streams whose second layer knows membership, of responses of 3 to 12 tokens."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 13, n)
    gold = []
    for length in lengths:
        mask = np.zeros(length, dtype=np.bool_)
        start = draw.integers(0, length)
        mask[start : start + 2] = True
        gold.append(mask)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    streams = draw.normal(size=(starts[-1], 2, 12)) * 5 + 2
    streams[:, 1, 4] += 20 * np.concatenate(gold)
    rows = TokenRows((3, 7), starts, streams.astype(np.float16), np.zeros((starts[-1], 3), dtype=np.float32))
    tokens = LocatorTokens(np.arange(n), tuple(f"k{at}" for at in range(n)), tuple(gold))
    return rows, tokens


@pytest.fixture(scope="module")
def planted():
    rows, tokens = make_rows()
    return rows, tokens, fit_locator(rows, tokens)


def test_the_layer_that_knows_is_found_and_its_threshold_separates(planted):
    rows, tokens, fitted = planted
    assert fitted.head.layer == 7
    gold = np.concatenate(tokens.gold)
    assert ((fitted.logits(rows) >= fitted.threshold) == gold).mean() > 0.97
    assert len(fitted.grid) == 6


def test_the_head_is_in_units_of_the_stream_as_it_is(planted):
    rows, _, fitted = planted
    expected = rows.streams[:, 1].astype(np.float64) @ fitted.head.weights + fitted.head.intercept
    np.testing.assert_allclose(fitted.logits(rows), expected, atol=1e-3)


def test_hazard_a_training_token_is_judged_by_a_fit_that_saw_it():
    rows, tokens = make_rows(60)
    fitted = fit_locator(rows, tokens, layers=[3])  # knows nothing: what it seems to know is leaked
    fold = np.array([fold_of(key) for key in tokens.keys])
    assert set(fold) == set(range(FOLDS))
    seen, gold = fitted.logits(rows), np.concatenate(tokens.gold)
    unseen = np.concatenate(fitted.unseen)
    assert seen[gold].mean() - seen[~gold].mean() > 2 * abs(unseen[gold].mean() - unseen[~gold].mean())


def test_responses_that_are_not_named_do_not_matter():
    rows, tokens = make_rows(80)
    some = LocatorTokens(tokens.passages[20:], tokens.keys[20:], tokens.gold[20:])
    spoilt = TokenRows(rows.layers, rows.starts, rows.streams.copy(), rows.numbers)
    spoilt.streams[: rows.starts[20]] = 99
    a, b = fit_locator(rows, some), fit_locator(spoilt, some)
    assert (a.head.weights == b.head.weights).all()
    assert a.threshold == b.threshold
    assert [len(values) for values in a.unseen] == [len(mask) for mask in tokens.gold[20:]]


def test_more_rows_move_the_head_and_are_not_judged():
    rows, tokens = make_rows(80)
    own = LocatorTokens(tokens.passages[:40], tokens.keys[:40], tokens.gold[:40])
    more = LocatorTokens(tokens.passages[40:], tokens.keys[40:], tokens.gold[40:])
    alone, both = fit_locator(rows, own), fit_locator(rows, own, more)
    assert (alone.head.weights != both.head.weights).any()
    assert len(both.unseen) == 40
