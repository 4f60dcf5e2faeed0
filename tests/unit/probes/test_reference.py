"""The reference of risks: PSI equals a slow loop, and an artifact carries it, or none as older ones do."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.artifact import ArtifactError, load_artifact, save_artifact
from probes.reference import RiskReference, make_reference
from probes.registry import list_artifacts
from tests.unit.probes.artifacts import make_artifact

torch.set_num_threads(1)


def slow_psi(reference, risks):
    """Bin by bin, one risk after the other."""
    bounds = [-math.inf, *reference.edges, math.inf]
    total = 0.0
    for at, count in enumerate(reference.counts):
        inside = sum(1 for risk in risks if bounds[at] <= risk < bounds[at + 1])
        bins = len(reference.counts)
        p = (count + 0.5) / (sum(reference.counts) + 0.5 * bins)
        q = (inside + 0.5) / (len(risks) + 0.5 * bins)
        total += (q - p) * math.log(q / p)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_psi_equals_a_slow_loop(seed):
    random = np.random.default_rng(seed)
    reference = make_reference(random.beta(5, 1, 700), "some")
    risks = [*random.beta(2, 1, 300), *reference.edges, 0.0, 1.0]
    assert reference.psi(risks) == pytest.approx(slow_psi(reference, risks), rel=1e-12)


def test_the_same_risks_have_no_drift_and_others_have_much():
    risks = np.random.default_rng(0).beta(8, 1, 1500)
    reference = make_reference(risks, "some")
    assert reference.counts == (150,) * 10
    assert reference.psi(risks) == 0
    assert reference.psi(1 - risks) > 3
    assert math.isfinite(reference.psi([0.0]))


def test_equal_risks_of_a_plateau_share_a_bin():
    reference = make_reference(np.array([0.2] * 50 + [0.7] * 40 + [0.9] * 10), "some")
    assert reference.edges == (0.7, 0.9)
    assert reference.counts == (50, 40, 10)
    assert make_reference(np.full(20, 0.3), "some").counts == (20,)


@pytest.mark.parametrize(
    "fields",
    [
        {"edges": (0.5, 0.4), "counts": (1, 1, 1)},
        {"edges": (0.5, 0.5), "counts": (1, 1, 1)},
        {"edges": (math.nan,), "counts": (1, 1)},
        {"edges": (0.5,), "counts": (1,)},
        {"edges": (0.5,), "counts": (1, -1)},
        {"edges": (), "counts": (0,)},
    ],
)
def test_bins_that_are_none_are_refused(fields):
    with pytest.raises(ValueError, match="reference"):
        RiskReference(**fields, rows="some")


def test_an_artifact_carries_its_reference(tmp_path, model):
    reference = make_reference(np.random.default_rng(0).random(100), "unfiltered-test")
    made = save_artifact(tmp_path / "p" / "1", replace(make_artifact(model), reference=reference), "")
    assert load_artifact(tmp_path / "p" / "1").reference == made.reference == reference


def test_an_artifact_of_before_references_still_loads(tmp_path, model):
    folder = tmp_path / "p" / "1"
    save_artifact(folder, make_artifact(model), "")
    described = json.loads((folder / "probe.json").read_text())
    del described["reference"]
    (folder / "probe.json").write_text(json.dumps(described))
    assert load_artifact(folder).reference is None
    described["reference"] = {"edges": [0.5], "counts": [1], "rows": "some"}
    (folder / "probe.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match="one count a bin"):
        load_artifact(folder)


def test_the_shipped_probe_carries_a_reference():
    """Otherwise the service's PSI would be absent for everybody, without a word."""
    for folder in list_artifacts():
        artifact = load_artifact(folder)
        reference, unfiltered = artifact.reference, artifact.card["training"]["rows"]["unfiltered-test"]
        assert reference is not None
        assert (sum(reference.counts), reference.rows) == (sum(unfiltered.values()), "unfiltered-test")
        assert sum(reference.counts) >= 1000
        assert max(reference.counts) <= 0.2 * sum(reference.counts)
