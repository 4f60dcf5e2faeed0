"""One daemon and one stack for all tests of this folder."""

import pytest

from tests.docker.daemon import docker_daemon, missing
from tests.docker.stack import running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with docker_daemon() as docker, running_stack(docker, tmp_path_factory.mktemp("checkout")) as running:
        yield running
