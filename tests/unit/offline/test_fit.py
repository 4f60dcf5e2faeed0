"""Assembly of the two modes, the dense baseline and the scikit-learn export."""

import joblib
import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from offline.fitting import fit as fit_module
from offline.fitting.fit import export_estimator, fit_dense, training_view
from offline.fitting.l1 import fit_l1
from tests.unit.offline.l1_problems import assert_equal_fits, cett_like, liblinear

RESPONSES, NEURONS = 130, 260


@pytest.fixture
def maps():
    answer, labels = cett_like(RESPONSES, NEURONS, seed=1)
    other, _ = cett_like(RESPONSES, NEURONS, seed=2)
    return answer, other, labels


def stack_officially(answer, other, labels):
    """The order of the authors' loader: wrong answers, right answers, then the other tokens of right and of wrong."""
    x, y = [], []
    for row in np.flatnonzero(labels == 1):
        x.append(answer[row])
        y.append(1)
    for row in np.flatnonzero(labels == 0):
        x.append(answer[row])
        y.append(0)
    for wanted in (0, 1):
        for row in np.flatnonzero(labels == wanted):
            if other is not None:
                x.append(other[row])
                y.append(0)
    return np.array(x), np.array(y)


def test_three_vs_one_is_the_authors_stacking(maps):
    answer, other, labels = maps
    view, assembled = training_view("3-vs-1", answer, other, labels, np.arange(RESPONSES))
    x, y = stack_officially(answer, other, labels)
    assert np.array_equal(view.take_columns(np.arange(NEURONS)), x.astype(np.float64))
    assert np.array_equal(assembled, y)
    assert_equal_fits(fit_l1(view, assembled, 5.0), liblinear(x, y, 5.0))


def test_one_vs_one_reads_answer_tokens_only(maps):
    answer, other, labels = maps
    other[:] = np.nan
    view, assembled = training_view("1-vs-1", answer, other, labels, np.arange(RESPONSES))
    assert_equal_fits(fit_l1(view, assembled, 5.0), liblinear(answer, labels, 5.0))


def test_rows_of_a_split_are_not_confused_with_rows_of_the_map(maps):
    answer, other, _ = maps
    place = np.array([100, 3, 57, 20, 99, 8])
    chosen = np.array([1, 0, 1, 0, 1, 0])
    view, assembled = training_view("3-vs-1", answer, other, chosen, place)
    rows = view.take_columns(np.arange(NEURONS))
    assert np.array_equal(rows[:3], answer[[100, 57, 99]])
    assert np.array_equal(rows[3:6], answer[[3, 20, 8]])
    assert np.array_equal(rows[6:], other[[3, 20, 8, 100, 57, 99]])
    assert assembled.tolist() == [1] * 3 + [0] * 9


def test_missing_other_tokens_are_never_read(maps):
    answer, other, labels = maps
    has_other = np.arange(RESPONSES) % 3 != 0
    other[~has_other] = np.nan
    view, assembled = training_view("3-vs-1", answer, other, labels, np.arange(RESPONSES), has_other=has_other)
    assert view.n_rows == assembled.size == RESPONSES + has_other.sum()
    assert assembled.sum() == labels.sum()
    assert np.isfinite(view.statistics.norm).all()


def test_three_vs_one_without_other_tokens_is_refused(maps):
    answer, other, labels = maps
    with pytest.raises(ValueError, match="use 1-vs-1"):
        training_view("3-vs-1", answer, other, labels, np.arange(RESPONSES), has_other=np.zeros(RESPONSES, dtype=bool))


@pytest.mark.parametrize("mode", ["1-vs-1", "3-vs-1"])
def test_faithful_rows_alone_are_refused_in_both_modes(maps, mode):
    answer, other, labels = maps
    place = np.flatnonzero(labels == 0)
    with pytest.raises(ValueError, match="both classes"):
        training_view(mode, answer, other, labels[place], place)


def test_an_empty_split_is_refused(maps):
    answer, other, _ = maps
    nothing = np.empty(0, dtype=np.int64)
    with pytest.raises(ValueError, match="split is empty"):
        training_view("3-vs-1", answer, other, nothing, nothing)


def test_dense_baseline_equals_the_full_matrix(maps, monkeypatch):
    grid = (1e-4, 1e-2)
    monkeypatch.setattr(fit_module, "L2_GRID", grid)
    answer, _, labels = maps
    answer[:, 5] = 0.5
    train, everything = np.arange(0, RESPONSES, 2), np.arange(RESPONSES)
    logits = fit_dense(answer, labels[train], train, everything)
    search = GridSearchCV(LogisticRegression(max_iter=10_000, tol=1e-9), {"C": grid}, scoring="roc_auc", cv=4)
    model = make_pipeline(StandardScaler(), search).fit(answer[train].astype(np.float64), labels[train])
    expected = model.decision_function(answer.astype(np.float64))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_dense_baseline_scores_repeated_rows_in_the_order_asked(maps, monkeypatch):
    monkeypatch.setattr(fit_module, "L2_GRID", (1e-3,))
    answer, _, labels = maps
    train = np.arange(RESPONSES)
    every = fit_dense(answer, labels, train, train)
    picked = np.array([7, 100, 7, 0])
    np.testing.assert_allclose(fit_dense(answer, labels, train, picked), every[picked], rtol=1e-6)


@pytest.mark.parametrize(("row", "match"), [(3, "row 3"), (RESPONSES - 1, f"row {RESPONSES - 1}")])
def test_dense_baseline_names_rows_that_are_not_finite(maps, row, match):
    answer, _, labels = maps
    answer[row, 9] = np.inf
    train = np.arange(RESPONSES - 20)
    with pytest.raises(ValueError, match=match):
        fit_dense(answer, labels[train], train, np.arange(RESPONSES))


def test_dense_baseline_with_one_class_is_refused(maps):
    answer, _, _ = maps
    train = np.arange(10)
    with pytest.raises(ValueError, match="both classes"):
        fit_dense(answer, np.ones(10, dtype=np.int64), train, train)


def test_exported_estimator_predicts_what_the_probe_does(maps, tmp_path):
    answer, _, labels = maps
    view, assembled = training_view("1-vs-1", answer, answer, labels, np.arange(RESPONSES))
    fit = fit_l1(view, assembled, 5.0)
    export_estimator(tmp_path / "estimator.joblib", fit.columns, fit.weights, fit.intercept, NEURONS)
    model = joblib.load(tmp_path / "estimator.joblib")
    risk = expit(view.take_columns(fit.columns) @ fit.weights + fit.intercept)
    np.testing.assert_allclose(model.predict_proba(answer.astype(np.float64))[:, 1], risk, rtol=1e-12)
    assert np.array_equal(model.predict(answer.astype(np.float64)), (risk > 0.5).astype(int))
    assert model.classes_.tolist() == [0, 1]
    assert model.n_features_in_ == NEURONS
