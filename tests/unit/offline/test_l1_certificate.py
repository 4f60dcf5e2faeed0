"""The L1 solver against its own certificate, and the certificate against wrong weights."""

import numpy as np
import pytest

from offline.fitting.l1 import certify, fit_l1
from tests.unit.offline.l1_problems import cett_like, dense_weights, whole


def test_repeated_columns_are_certified_though_the_weights_are_not_unique():
    values, labels = cett_like(150, 200)
    doubled = np.concatenate([values, values], axis=1)
    fit = fit_l1(whole(doubled), labels, 5.0)
    single = fit_l1(whole(values), labels, 5.0)
    assert fit.certificate.breach < 1e-8
    assert fit.certificate.objective == pytest.approx(single.certificate.objective, rel=1e-10)


def test_separable_classes_still_reach_the_optimum():
    values, labels = cett_like(60, 400)
    fit = fit_l1(whole(values), labels, 300.0)
    assert ((whole(values).take_columns(fit.columns) @ fit.weights + fit.intercept > 0) == labels).all()
    assert fit.certificate.breach < 1e-8


def test_certificate_does_not_depend_on_the_screening_pass():
    values, labels = cett_like(200, 600)
    view = whole(values)
    fit = fit_l1(view, labels, 3.0)
    checked = certify(view, labels, 3.0, fit.columns, fit.weights, fit.intercept)
    assert checked.breach < 1e-8
    assert checked.objective == pytest.approx(fit.certificate.objective, rel=1e-12)
    x = np.column_stack([values.astype(np.float64), np.ones(len(values))])
    weights = np.append(dense_weights(fit, 600), fit.intercept)
    loss = sum(np.log1p(np.exp(-s * float(row @ weights))) for row, s in zip(x, 2 * labels - 1, strict=True))
    assert checked.objective == pytest.approx(np.abs(weights).sum() + 3.0 * loss, rel=1e-12)


@pytest.mark.parametrize("change", ["scaled", "dropped", "added", "intercept"])
def test_certificate_fails_where_weights_are_wrong(change):
    values, labels = cett_like(200, 600)
    view = whole(values)
    fit = fit_l1(view, labels, 3.0)
    columns, weights, intercept = fit.columns, fit.weights.copy(), fit.intercept
    if change == "scaled":
        weights *= 1.001
    elif change == "dropped":
        largest = np.argmax(np.abs(weights))
        columns, weights = np.delete(columns, largest), np.delete(weights, largest)
    elif change == "added":
        extra = np.setdiff1d(np.arange(600), columns)[:1]
        columns, weights = np.append(columns, extra), np.append(weights, 0.01)
    else:
        intercept += 0.01
    checked = certify(view, labels, 3.0, columns, weights, intercept)
    assert checked.breach > 1e-4
    assert checked.objective > fit.certificate.objective
    assert checked.duality_gap >= checked.objective - fit.certificate.objective


def test_tolerance_out_of_reach_is_an_error_and_not_a_quiet_result():
    values, labels = cett_like(60, 40)
    with pytest.raises(RuntimeError, match="tolerance"):
        fit_l1(whole(values), labels, 3.0, tolerance=1e-30)
