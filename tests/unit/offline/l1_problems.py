"""Problems that look like CETT, and liblinear's answer to them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offline.features.row_view import stack_views
from offline.fitting.l1 import L1Fit


def cett_like(rows, columns, seed=0, factors=5):
    """Lognormal, positive, correlated columns in float16, and labels that depend on a few factors."""
    random = np.random.default_rng(seed)
    shared = random.standard_normal((rows, factors))
    exponents = 0.4 * shared @ random.standard_normal((factors, columns)) + 0.5 * random.standard_t(5, (rows, columns))
    values = np.exp(np.clip(exponents, -5, 5) - 3 + 0.7 * random.standard_normal(columns)).astype(np.float16)
    labels = (shared[:, 0] + shared[:, 1] + random.standard_normal(rows) > 0.4).astype(np.int64)
    return values, labels


def whole(matrix):
    return stack_views([(matrix, np.arange(len(matrix)))])


def liblinear(matrix, labels, c):
    model = LogisticRegression(l1_ratio=1, solver="liblinear", C=c, tol=1e-8, max_iter=1000, random_state=0)
    return model.fit(matrix.astype(np.float64), labels)


def dense_weights(fit: L1Fit, columns):
    weights = np.zeros(columns)
    weights[fit.columns] = fit.weights
    return weights


def assert_equal_fits(fit, model):
    weights = dense_weights(fit, model.coef_.shape[1])
    assert np.array_equal(weights != 0, model.coef_[0] != 0)
    np.testing.assert_allclose(weights, model.coef_[0], atol=1e-4)
    assert fit.intercept == pytest.approx(model.intercept_[0], abs=1e-4)
