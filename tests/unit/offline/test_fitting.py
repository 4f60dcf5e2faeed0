"""More rows than a fold has select more neurons: the cap holds for what is served."""

import numpy as np
import pytest

from offline.fitting.choose import Candidate, Variant, fit_variant
from offline.fitting.probe import SMALLER, fit_capped
from tests.unit.offline.tables import make_table


def test_hazard_the_fit_on_all_rows_has_more_h_neurons_than_the_cap():
    table, variant = make_table(noise=2.0), Variant("1-vs-1", "own", is_standardised=True)
    chosen = Candidate(variant, 3.0, 0.9, 0.01, 5.0, 5.0, np.zeros(0))
    (free,), _ = fit_variant(table, table.in_split("train"), variant, [chosen.c])
    most = int((free.weights > 0).sum()) // 2
    assert most > 1
    c, fit, _ = fit_capped(table, chosen, most=most)
    assert 0 < (fit.weights > 0).sum() <= most
    (before,), _ = fit_variant(table, table.in_split("train"), variant, [c / SMALLER])
    assert (before.weights > 0).sum() > most, "a larger C would have done"
    assert fit_capped(table, chosen, most=40)[0] == pytest.approx(chosen.c)
