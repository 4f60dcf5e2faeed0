"""Whatever a client sends, the answers are those of the OpenAPI document, and none of them is a 5xx."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.keys import show, write_keys
from tests.running_service import running_service

EXAMPLES = 40
BEFORE = ["--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run"]
OPTIONS = ["--checks=all", f"--max-examples={EXAMPLES}", "--generation-deterministic", "--request-timeout=20"]
OPTIONS += ["--no-color", f"--header=Authorization: {show('every')['authorization']}"]
SECONDS = 600
"""Never reached unless the service hangs: 20 s on two cores."""

pytestmark = pytest.mark.slow


def test_the_service_keeps_to_its_openapi_document(tmp_path):
    keys = write_keys(tmp_path, every=("infer", "admin", "metrics"))
    with running_service(tmp_path, api_keys_file=keys, feedback_url=f"sqlite:///{tmp_path}/feedback.db") as service:
        address = service.address
        paths = httpx.get(f"{address}/openapi.json").json()["paths"]
        refused_at_the_start = count_5xx(address)
        command = [sys.executable, "-m", "schemathesis.cli", *BEFORE, f"{address}/openapi.json", *OPTIONS]
        try:
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"not done after {SECONDS} s: {(error.output or b'').decode()}")
        counted = httpx.get(f"{address}/metrics", headers=show("metrics")).text
        refused = count_5xx(address)
    assert done.returncode == 0, done.stdout + done.stderr
    served = set(re.findall(r'hguard_requests_total\{action="\w+",code="200",route="([^"]+)"\}', counted))
    generating = {path for path, operations in paths.items() if "text/event-stream" in str(operations)}
    assert generating <= served, "no request got past its checks"
    assert refused == refused_at_the_start


def count_5xx(address):
    """Each series of answers that blame the service; while its model loads, /readyz is one."""
    counted = httpx.get(f"{address}/metrics", headers=show("metrics")).text
    return re.findall(r'hguard_requests_total\{action="\w+",code="50[0-3]".*', counted)
