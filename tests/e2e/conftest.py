"""One run of the refresh for all tests that look at it."""

from types import SimpleNamespace

import pytest

from probes.models import DEFAULT_MODEL
from tests.e2e.training import arguments_of, kill_during, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run that was killed in the greedy pass, killed again in the samples, and then ended."""
    folder = tmp_path_factory.mktemp("train")
    arguments, out, left, logs = arguments_of(folder), folder / "run", {}, {}
    for stage in ("greedy", "samples"):
        left[stage], logs[stage] = kill_during(stage, out, arguments, folder / f"{stage}.log")
    status, logs["whole"] = run(arguments, folder / "whole.log")
    assert status == 0, logs["whole"]
    artifact = out / "artifact" / DEFAULT_MODEL / "1.0.0"
    return SimpleNamespace(out=out, arguments=arguments, left=left, logs=logs, artifact=artifact)
