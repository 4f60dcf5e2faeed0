"""Ways in which a probe on disk can be wrong."""

from dataclasses import replace

import numpy as np

from probes.artifact import save_artifact


def cut(folder, _artifact):
    (folder / "probe.safetensors").write_bytes(b"cut")


def swap_weights(folder, _artifact):
    """Whole, but not what probe.json was written with."""
    data = bytearray((folder / "probe.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "probe.safetensors").write_bytes(data)


def drop_json(folder, _artifact):
    (folder / "probe.json").write_text("{")


def write_again(change):
    def spoil(folder, artifact):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        save_artifact(folder, change(artifact), "card")

    spoil.__name__ = change.__name__
    return spoil


def of_another_model(artifact):
    return replace(artifact, model=replace(artifact.model, architecture="Other"))


def of_other_weights(artifact):
    return replace(artifact, probe=replace(artifact.probe, norms=artifact.probe.norms * 1.5))


def with_another_trace(artifact):
    scores = tuple(np.roll(row, 1) for row in artifact.golden.scores)
    return replace(artifact, golden=replace(artifact.golden, scores=scores))


def with_another_name(artifact):
    return replace(artifact, probe=replace(artifact.probe, version="9"))
