"""Probes beside the built one, for the tests of gate and publishing."""

from dataclasses import replace

from probes.artifact import save_artifact


def changed(artifact, version="0.9.0", **changes):
    return replace(artifact, probe=replace(artifact.probe, version=version, **changes))


def write(folder, artifact):
    return save_artifact(folder / artifact.probe.name / artifact.probe.version, artifact, "card")


def worse(artifact, version="0.9.0"):
    """Reads the neurons the wrong way round: no better than the free signals, or worse."""
    return changed(artifact, version, weights=-artifact.probe.weights)
