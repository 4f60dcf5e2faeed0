"""One daemon and one stack for all tests of this folder."""

import contextlib

import pytest

from tests.docker.daemon import NoDaemonError, docker_daemon, missing
from tests.docker.stack import running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as opened:
        try:
            docker = opened.enter_context(docker_daemon())
        except NoDaemonError as error:
            pytest.skip(str(error))
        yield opened.enter_context(running_stack(docker, tmp_path_factory.mktemp("checkout")))
