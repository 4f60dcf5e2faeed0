"""The client snippets of deploy/integrations, run as a user runs them, against a real process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.keys import write_keys
from tests.running_service import running_service

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "deploy" / "integrations"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    with running_service(folder, api_keys_file=write_keys(folder)) as found:
        yield found


def run(name, service, key="key of infer"):
    environment = {**os.environ, "HGUARD_URL": service.address, "HGUARD_CLIENT_KEY": key, "PYTHONWARNINGS": "error"}
    command = [sys.executable, FOLDER / name, "What is the capital of France?"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)


def measured(service):
    """The guard object that /generate gives for the same question."""
    asked = {"prompt": "What is the capital of France?", "guard": {"policy": "flag", "return_tokens": True}}
    answer = httpx.post(service.address + "/generate", json=asked, headers={"authorization": "Bearer key of infer"})
    return answer.json()["choices"][0]["guard"]


def test_the_openai_snippet_prints_the_risk_and_streams_nothing_that_is_blocked(service):
    ran, guard = run("openai_client.py", service), measured(service)
    assert ran.returncode == 0, ran.stderr
    first, second, *blocked = ran.stdout.splitlines()
    assert first == "The answer is Paris."
    assert second == f"status scored, risk {guard['risk']}, action {guard['action']}"
    assert guard["risk"] > guard["threshold"]
    assert "Paris" not in "".join(blocked)
    assert blocked[-1] == f"finish_reason content_filter, risk {guard['risk']}"


def test_the_langchain_snippet_prints_the_risk_of_answer_and_tokens(service):
    pytest.importorskip("langchain_openai", reason="pip install -e .[dev]")
    ran, guard = run("langchain_client.py", service), measured(service)
    assert ran.returncode == 0, ran.stderr
    first, second, *tokens = ran.stdout.splitlines()
    assert first == "The answer is Paris."
    assert second == f"risk {guard['risk']}, action {guard['action']}, by fake@0"
    assert [line.rpartition(": ")[2] for line in tokens] == [str(token["risk"]) for token in guard["tokens"]]


@pytest.mark.parametrize("name", ["openai_client.py", "langchain_client.py"])
def test_a_wrong_key_is_an_error_and_no_answer(service, name):
    ran = run(name, service, key="nobody's")
    assert ran.returncode != 0
    assert re.search("401", ran.stderr)
    assert ran.stdout == ""
