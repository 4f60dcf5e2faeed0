"""A calibration map must be honest where the rows are few, tied, separable or the wrong way round."""

import numpy as np
import pytest

from offline.fitting.calibrate import choose_calibration, choose_threshold, fit_isotonic, fit_platt
from offline.metrics import brier, ece


def make_logits(n=4000, *, slope=1.5, offset=-0.4, seed=0):
    """Logits whose true risk is sigmoid(slope * logit + offset)."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=n) * 2
    risks = 1 / (1 + np.exp(-(slope * logits + offset)))
    return logits, (draw.random(n) < risks).astype(np.int64), risks


def test_platt_finds_the_slope_and_offset_that_made_the_labels():
    logits, labels, _ = make_logits()
    found = fit_platt(logits, labels)
    assert found.slope == pytest.approx(1.5, rel=0.1)
    assert found.offset == pytest.approx(-0.4, abs=0.1)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_platt_does_not_depend_on_the_unit_of_the_logits(unit):
    logits, labels, _ = make_logits(800)
    expected = fit_platt(logits, labels).risks(logits)
    np.testing.assert_allclose(fit_platt(logits * unit, labels).risks(logits * unit), expected, atol=1e-4)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_calibrated_risks_are_honest_on_new_rows(fit):
    logits, labels, _ = make_logits()
    new, new_labels, truth = make_logits(seed=1)
    risks = fit(logits, labels).risks(new)
    assert ece(risks, new_labels) < 0.03
    assert np.abs(risks - truth).mean() < 0.04


def test_isotonic_never_promises_certainty():
    logits, labels = np.arange(10.0), np.array([0] * 5 + [1] * 5)
    risks = fit_isotonic(logits, labels).risks(np.array([-100.0, 0.0, 9.0, 100.0]))
    assert risks.min() == pytest.approx(1 / 12)
    assert risks.max() == pytest.approx(11 / 12)


def test_isotonic_takes_tied_logits():
    logits = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    found = fit_isotonic(logits, np.array([0, 0, 1, 0, 1, 1]))
    np.testing.assert_allclose(found.risks(np.array([0.0, 1.0])), [1 / 3, 2 / 3])


def test_the_choice_is_the_map_that_predicts_held_out_rows_better():
    logits, labels, _ = make_logits(1500)
    calibration, scores = choose_calibration(logits, labels, seed=0)
    assert calibration.kind == "platt"  # the truth is a Platt map
    assert set(scores) == {"platt", "isotonic"}
    draw = np.random.default_rng(0)
    steps = np.where(logits > 0, 0.9, np.where(logits > -0.1, 0.5, 0.45))  # flat, then a jump: no sigmoid
    calibration, scores = choose_calibration(logits, (draw.random(1500) < steps).astype(np.int64), seed=0)
    assert calibration.kind == "isotonic"
    assert scores["isotonic"] < scores["platt"]


def test_the_choice_is_repeatable():
    logits, labels, _ = make_logits(200)
    assert choose_calibration(logits, labels, seed=4) == choose_calibration(logits, labels, seed=4)


def test_rare_faithful_rows_are_in_every_fold():
    draw = np.random.default_rng(0)
    labels = np.ones(300, dtype=np.int64)
    labels[:6] = 0  # at the natural rate of a weak model; plain folds would often lack a class
    logits = draw.normal(size=300) + labels
    for seed in range(3):
        calibration, scores = choose_calibration(logits, labels, seed=seed)
        assert np.isfinite(list(scores.values())).all()
        assert calibration.risks(logits).mean() == pytest.approx(294 / 300, abs=0.02)


def test_a_fold_whose_slope_turns_does_not_end_the_refresh():
    turned = 0
    for seed in range(8):
        draw = np.random.default_rng(seed)
        labels = np.array([0, 1] * 6)
        logits = draw.normal(size=12) + 0.4 * labels
        try:
            fit_platt(logits, labels)
        except ValueError:
            continue  # the whole says that the probe does not work
        turned += any(_turns(logits, labels, left_out) for left_out in range(12))
        choose_calibration(logits, labels, seed=seed)
    assert turned


def _turns(logits, labels, left_out):
    rows = np.arange(12) != left_out
    try:
        fit_platt(logits[rows], labels[rows])
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "one class only"),
        ([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0], "does not work"),
        ([1.0, np.nan, 2.0], [0, 1, 1], "not finite"),
        ([1.0, 2.0, 3.0], [0, 1, 1], "one row of a class only"),
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], "does not work|slope"),
    ],
)
def test_rows_that_cannot_calibrate_are_an_error_in_plain_words(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        choose_calibration(np.array(logits), np.array(labels), seed=0)


def test_the_threshold_separates_best_with_equal_weight_on_both_classes():
    draw = np.random.default_rng(0)
    labels = (draw.random(500) < 0.9).astype(np.int64)
    risks = np.clip(draw.normal(size=500) * 0.1 + 0.6 + 0.2 * labels, 0.01, 0.99)
    cut = choose_threshold(risks, labels)

    def balanced(threshold):
        return (risks[labels == 1] >= threshold).mean() + (risks[labels == 0] < threshold).mean()

    assert balanced(cut) == pytest.approx(max(balanced(t) for t in np.linspace(0, 1, 2001)), abs=1e-2)
    assert cut not in risks  # between two risks: rounding on another machine flips nothing


def test_risks_that_are_all_equal_give_no_threshold():
    with pytest.raises(ValueError, match="says nothing"):
        choose_threshold(np.full(4, 0.5), np.array([0, 1, 0, 1]))


def test_brier_of_the_chosen_map_is_no_worse_than_the_base_rate():
    logits, labels, _ = make_logits(600, slope=0.2)
    calibration, _ = choose_calibration(logits, labels, seed=0)
    assert brier(calibration.risks(logits), labels) <= brier(np.full(600, labels.mean()), labels)
