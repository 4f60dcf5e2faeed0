"""Drift: equal to slow computations over exactly the last rows, absent until there are enough, and bounded."""

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.engines.fake_probe import fake_artifact
from service.feedback.drift import MIN_FLAGGED, MIN_LABELS, MIN_RISKS, PROBES_LIMIT, Drift, DriftCollector, LabelledRisk
from tests.unit.probes.test_reference import slow_psi

ARTIFACT = fake_artifact(threshold=0.6)
SHA = ARTIFACT.sha256


def labelled(n, seed=0):
    random = np.random.default_rng(seed)
    risks = random.random(n)
    return [LabelledRisk(float(risk), bool(random.random() < risk**2)) for risk in risks]


def slow_ece(rows, bins=10):
    """Sorted, cut into ten parts of equal count; risks here have no ties."""
    rows = sorted(rows)
    size, more = divmod(len(rows), bins)
    total, at = 0.0, 0
    for part in range(bins):
        end = at + size + (part < more)
        inside = rows[at:end]
        total += abs(sum(row.risk for row in inside) - sum(row.is_hallucinated for row in inside))
        at = end
    return total / len(rows)


def test_psi_is_that_of_the_last_risks():
    drift = Drift(lambda: ARTIFACT, window=300)
    risks = np.random.default_rng(1).random(900).tolist()
    for risk in risks:
        drift.observe(SHA, risk)
    assert drift.report().served == 300
    assert drift.report().psi == pytest.approx(slow_psi(ARTIFACT.reference, risks[-300:]))


@pytest.mark.parametrize("n", [100, 137, 1000])
def test_ece_and_precision_equal_slow_loops(n):
    drift, rows = Drift(lambda: ARTIFACT, window=1000), labelled(n)
    drift.learn(SHA, rows)
    flagged = [row.is_hallucinated for row in rows if row.risk >= 0.6]
    assert drift.report().ece == pytest.approx(slow_ece(rows))
    assert drift.report().precision == pytest.approx(sum(flagged) / len(flagged))


def test_too_few_rows_give_no_number():
    drift = Drift(lambda: ARTIFACT, window=1000)
    for _ in range(MIN_RISKS - 1):
        drift.observe(SHA, 0.5)
    drift.learn(SHA, [LabelledRisk(0.9, True)] * (MIN_FLAGGED - 1) + [LabelledRisk(0.1, False)])
    report = drift.report()
    assert (report.psi, report.ece, report.precision) == (None, None, None)
    assert (report.served, report.labelled) == (MIN_RISKS - 1, MIN_FLAGGED)
    drift.observe(SHA, 0.5)
    drift.learn(SHA, labelled(MIN_LABELS))
    assert None not in (drift.report().psi, drift.report().ece, drift.report().precision)


def test_a_probe_without_a_reference_has_no_psi():
    drift = Drift(lambda: replace(ARTIFACT, reference=None), window=1000)
    for _ in range(MIN_RISKS):
        drift.observe(SHA, 0.5)
    assert drift.report().psi is None


def test_a_switch_of_probes_mixes_no_windows():
    serving = [ARTIFACT]
    drift = Drift(lambda: serving[0], window=1000)
    for _ in range(MIN_RISKS):
        drift.observe(SHA, 0.5)
    drift.learn(SHA, labelled(MIN_LABELS))
    serving[0] = replace(ARTIFACT, sha256="1" * 64)
    assert (drift.report().served, drift.report().labelled) == (0, 0)
    drift.observe("1" * 64, 0.5)
    assert drift.report().served == 1
    serving[0] = ARTIFACT
    assert (drift.report().served, drift.report().labelled) == (MIN_RISKS, MIN_LABELS)


def test_memory_is_bounded_whatever_is_served():
    drift = Drift(lambda: ARTIFACT, window=200)
    for probe in range(50):
        for _ in range(500):
            drift.observe(str(probe), 0.5)
        drift.learn(str(probe), labelled(10))
    assert len(drift._risks) == len(drift._labelled) == PROBES_LIMIT
    assert sum(map(len, drift._risks.values())) == 200 * PROBES_LIMIT


def test_metrics_are_absent_and_not_0_until_they_are_known():
    registry, drift = CollectorRegistry(), Drift(lambda: ARTIFACT, window=1000)
    registry.register(DriftCollector(drift))
    text = generate_latest(registry).decode()
    assert "hguard_risk_psi" not in text
    assert "hguard_risk_ece" not in text
    assert 'hguard_risk_window_rows{kind="served"} 0.0' in text
    for _ in range(MIN_RISKS):
        drift.observe(SHA, 0.5)
    drift.learn(SHA, labelled(MIN_LABELS))
    text = generate_latest(registry).decode()
    for name in ("psi", "ece", "precision"):
        assert f"\nhguard_risk_{name} " in text


def test_nothing_is_known_before_a_probe_is_served():
    assert Drift(lambda: None, window=1000).report().served == 0
