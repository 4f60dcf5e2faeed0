"""The combination must be the best one of its signs, drop what adds nothing, and see no test row."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offline.fitting.choose import FOLDS, fold_of
from offline.fitting.combination import (
    choose_parts,
    clustered_error,
    distances,
    fit_combination,
    fit_domain,
    part_columns,
)
from probes.calibration import Calibration
from probes.domain import Domain, PartRange
from probes.parts import SIGNS
from probes.risk import RiskModel
from tests.unit.offline.tables import make_table

FREE = ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "length")


@pytest.fixture(scope="module")
def table():
    return make_table(1200, seed=3)


def make_columns(table, **strengths):
    """Parts that know the label as strongly as asked, each in its own sign, unit and with its own offset."""
    draw = np.random.default_rng(5)
    columns = {}
    for at, (part, sign) in enumerate(SIGNS.items()):
        noise = draw.normal(size=len(table.rows))
        columns[part] = (noise + strengths.get(part, 0.0) * (sign or 1) * table.labels) * (at + 0.5) + 3 * at
    return columns


def test_where_the_signs_are_right_the_fit_is_plain_logistic_regression(table):
    columns, train = make_columns(table, **dict.fromkeys(SIGNS, 0.5)), table.in_split("train")
    found = fit_combination(columns, table.labels, train, SIGNS)
    x = np.stack([columns[part] for part in SIGNS], axis=1)
    mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
    plain = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit((x[train] - mean) / scale, table.labels[train])
    np.testing.assert_allclose(list(found.weights.values()), plain.coef_[0] / scale, rtol=1e-3)
    np.testing.assert_allclose(found.logits(columns), plain.decision_function((x - mean) / scale), atol=1e-3)


def test_a_part_of_the_wrong_sign_gets_no_weight_and_the_rest_is_refitted(table):
    columns, train = make_columns(table, cett=0.8, mean_entropy=-0.6, min_logprob=0.5), table.in_split("train")
    found = fit_combination(columns, table.labels, train, ["cett", "min_logprob", "mean_entropy"])
    assert list(found.weights) == ["cett", "min_logprob"]
    alone = fit_combination(columns, table.labels, train, ["cett", "min_logprob"])
    np.testing.assert_allclose(found.logits(columns), alone.logits(columns), atol=1e-4)


def test_length_may_take_either_sign(table):
    for strength in (0.8, -0.8):
        columns = make_columns(table, length=strength)
        found = fit_combination(columns, table.labels, table.in_split("train"), SIGNS)
        assert found.weights["length"] * strength > 0


def test_a_part_that_never_changes_is_left_out(table):
    columns = {**make_columns(table, cett=1.0), "length": np.ones(len(table.rows))}
    assert "length" not in fit_combination(columns, table.labels, table.in_split("train"), SIGNS).weights


def test_what_is_served_is_what_was_fitted(table):
    columns = make_columns(table, cett=0.8, min_logprob=0.5)
    found = fit_combination(columns, table.labels, table.in_split("train"), SIGNS)
    served = RiskModel(found.weights, found.intercept, Calibration("platt"))
    rows = [{part: float(columns[part][row]) for part in SIGNS} for row in range(50)]
    np.testing.assert_allclose([served.logit(parts) for parts in rows], found.logits(columns)[:50], rtol=1e-12)


def test_parts_that_add_nothing_are_left_out_and_those_that_do_are_kept(table):
    parts, steps = choose_parts(make_columns(table, cett=1.0, min_logprob=0.6), table)
    assert {"cett", "min_logprob"} <= set(parts)
    assert len(parts) <= 3  # one of four noises may pass a test at 5%
    assert [step.part for step in steps if not step.is_removed] == list(parts)
    assert {step.part for step in steps} == set(SIGNS)
    assert all(step.cost > 1.645 * step.standard_error for step in steps if not step.is_removed)
    assert all(step.cost <= 1.645 * step.standard_error for step in steps if step.is_removed)


def test_costs_are_of_rows_that_the_fit_did_not_see(table):
    columns = make_columns(table, cett=1.0, min_logprob=1.5)
    for part in SIGNS:
        if part not in ("cett", "min_logprob"):
            columns[part] = np.zeros(len(table.rows))
    train = np.flatnonzero(table.in_split("train"))[:90]  # few, so that rows that were seen would fit better
    few = replace(
        table,
        rows=tuple(row if i in set(train) else replace(row, split="test") for i, row in enumerate(table.rows)),
    )
    fold, labels = np.array([fold_of(table.rows[row].answers_key) for row in train]), table.labels[train]

    def losses(names):
        x = np.stack([columns[name][train] for name in names], axis=1)
        found = np.zeros(len(train))
        for k in range(FOLDS):
            inside, outside = fold != k, fold == k
            mean, scale = x[inside].mean(axis=0), x[inside].std(axis=0)
            model = LogisticRegression(C=1.0, tol=1e-10).fit((x[inside] - mean) / scale, labels[inside])
            margin = model.decision_function((x[outside] - mean) / scale) * np.where(labels[outside] == 1, 1, -1)
            found[outside] = np.log1p(np.exp(-margin))
        return found

    _, steps = choose_parts(columns, few)
    cost = {step.part: step.cost for step in steps if not step.is_removed}
    both = losses(["cett", "min_logprob"])
    assert cost["cett"] == pytest.approx((losses(["min_logprob"]) - both).mean(), rel=1e-3)
    assert cost["min_logprob"] == pytest.approx((losses(["cett"]) - both).mean(), rel=1e-3)


def test_rows_with_one_answer_count_as_one_observation_in_the_standard_error():
    draw = np.random.default_rng(3)
    alone = draw.normal(size=200)
    names = np.array([f"answer {i}" for i in range(200)])
    assert clustered_error(alone, names) == pytest.approx(alone.std(ddof=1) / np.sqrt(200))
    assert clustered_error(np.repeat(alone, 7), np.repeat(names, 7)) == pytest.approx(clustered_error(alone, names))
    assert clustered_error(alone, np.full(200, "one answer")) == np.inf


def test_a_gain_on_one_answer_alone_keeps_no_part(table):
    """A fifth of the rows that judge a part share an answer, of which it knows the label; of others it knows little."""
    columns, train = make_columns(table, min_logprob=1.5), table.in_split("train")
    calibrating = np.flatnonzero(table.in_split("unfiltered-calibration"))
    shared = set(calibrating[: (train.sum() + len(calibrating)) // 5])
    gain = np.where(train, 0.25, np.isin(np.arange(len(train)), list(shared)) * 3.0)
    columns["cett"] = np.random.default_rng(8).normal(size=len(train)) + gain * (2 * table.labels - 1.0)
    apart = replace(table, rows=tuple(replace(row, answers_key=f"own {i}") for i, row in enumerate(table.rows)))
    same = tuple(replace(row, answers_key="shared") if i in shared else row for i, row in enumerate(apart.rows))
    assert "cett" in choose_parts(columns, apart)[0]
    assert "cett" not in choose_parts(columns, replace(table, rows=same))[0]


def test_the_probe_itself_is_not_served_where_it_adds_nothing(table):
    parts, _ = choose_parts(make_columns(table, min_logprob=1.0), table)
    assert "min_logprob" in parts
    columns = make_columns(table, min_logprob=1.0)
    columns["cett"] = -columns["min_logprob"]  # says the same again
    assert len({"cett", "min_logprob"} & set(choose_parts(columns, table)[0])) == 1


def test_of_noise_one_part_is_left_so_that_there_is_a_risk_at_all(table):
    assert choose_parts(make_columns(table), table)[0]


def test_a_part_that_helps_on_rows_at_the_served_rate_is_kept(table):
    train, calibrating = table.in_split("train"), table.in_split("unfiltered-calibration")
    columns = make_columns(table, min_logprob=1.0)
    draw = np.random.default_rng(6).normal(size=len(table.rows))
    columns["cett"] = draw + np.where(train, 0.15, 2.0) * table.labels  # out of fold it is weaker than served
    parts, steps = choose_parts(columns, table)
    assert {"cett", "min_logprob"} <= set(parts)
    flat = {part: np.where(calibrating, values.mean(), values) for part, values in columns.items()}
    assert {step.part: step.cost for step in choose_parts(flat, table)[1]}["cett"] < {
        step.part: step.cost for step in steps
    }["cett"]


def test_the_choice_sees_no_test_row_and_the_weights_no_calibration_row(table):
    columns, train = make_columns(table, cett=1.0, min_logprob=0.6), table.in_split("train")
    seen = train | table.in_split("unfiltered-calibration")

    def spoil(known):
        rows = tuple(
            row if known[at] else replace(row, label={"faithful": "hallucinated"}.get(row.label, "faithful"))
            for at, row in enumerate(table.rows)
        )
        return {part: np.where(known, values, 1e6) for part, values in columns.items()}, replace(table, rows=rows)

    assert choose_parts(*spoil(seen)) == choose_parts(columns, table)
    assert choose_parts(*spoil(train)) != choose_parts(columns, table)
    spoilt, flipped = spoil(train)
    a, b = (
        fit_combination(values, rows.labels, train, SIGNS) for values, rows in ((columns, table), (spoilt, flipped))
    )
    assert (a.weights, a.intercept) == (b.weights, b.intercept)
    assert fit_domain(spoilt, train) == fit_domain(columns, train)


@pytest.mark.parametrize(("locator", "prefix"), [("lexical", ""), ("response", "response_")])
def test_parts_are_taken_over_the_tokens_that_the_served_probe_pools(table, locator, prefix):
    cett = np.arange(len(table.rows), dtype=float)
    columns = part_columns(table, {"cett": cett, "residual": -cett}, locator)
    assert list(columns) == list(SIGNS)
    np.testing.assert_array_equal(columns["cett"], cett)
    np.testing.assert_array_equal(columns["residual"], -cett)
    for part in FREE[:-1]:
        np.testing.assert_array_equal(columns[part], table.signals[prefix + part])
    np.testing.assert_array_equal(columns["length"], table.signals[prefix + "n_tokens"])


def test_about_one_training_row_in_a_hundred_is_out_of_domain_and_a_far_one_is(table):
    columns, train = make_columns(table), table.in_split("train")
    domain = fit_domain(columns, train)
    away = distances(domain, columns)
    assert (away[train] > domain.cutoff).mean() == pytest.approx(0.01, abs=0.005)
    far = {part: values.copy() for part, values in columns.items()}
    far["max_entropy"][7] += 100 * columns["max_entropy"].std()
    assert distances(domain, far)[7] > domain.cutoff


def test_distances_of_a_table_are_those_of_its_rows(table):
    columns = make_columns(table)
    domain = fit_domain(columns, table.in_split("train"))
    for row in (0, 3, 11):
        assert distances(domain, columns)[row] == domain.distance({part: float(columns[part][row]) for part in SIGNS})


def test_counts_that_pile_up_on_their_shortest_value_still_have_a_scale(table):
    columns = make_columns(table)
    columns["length"] = np.where(np.arange(len(table.rows)) % 10 == 0, 7.0, 1.0)
    ranges = fit_domain(columns, table.in_split("train")).ranges
    assert ranges["length"] == PartRange(pytest.approx(0.4), 1.0, 7.0)
    columns["length"] = np.ones(len(table.rows))
    found = fit_domain(columns, table.in_split("train"))
    assert isinstance(found, Domain)
    assert "length" not in found.ranges
