"""One suite for the engines that start in a moment: `parts` is an engine with a probe of its own, not started yet."""

from importlib.util import find_spec

import pytest

from service.lifecycle import Parts
from tests.serving import make_parts

ENGINES = ["fake", "transformers"]


@pytest.fixture(params=ENGINES)
def engine_name(request) -> str:
    if request.param == "transformers" and find_spec("service.engines.transformers_engine") is None:
        pytest.skip("the transformers engine is not there yet")
    return request.param


@pytest.fixture(params=["own", "predicting"])
def position(request) -> str:
    return request.param


@pytest.fixture
def parts(engine_name, position, request) -> Parts:
    """Every token is an answer token, so that text without words is scored, too."""
    if engine_name == "fake":
        return make_parts(position=position, locator="response")
    from tests.contract.tiny import make_tiny_parts

    return make_tiny_parts(request.getfixturevalue("tiny_folder"), position)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    from tests.contract.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))
