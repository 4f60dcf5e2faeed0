"""What the tests of the commands share."""

import json
import os

import pytest

from service.cli.main import main
from tests.serving import make_parts, serve_on_port


@pytest.fixture
def as_a_client(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("HGUARD_URL", "HGUARD_CLIENT_KEY", "HGUARD_HOST", "HGUARD_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def url():
    with serve_on_port(make_parts()) as address:
        yield address


@pytest.fixture
def as_an_operator(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HGUARD_") and name != "HGUARD_CACHE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HGUARD_PORT", "0")


@pytest.fixture
def doctor(as_an_operator, monkeypatch, capsys):
    """`doctor(check, **settings)` -> (level, what is found, fix) of its worst finding, and the exit code."""

    def look(check, *options, **settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"HGUARD_{name.upper()}", str(value))
        status = main(["doctor", "--json", *(options or ("--quick",))])
        findings = json.loads(capsys.readouterr().out)
        assert status == any(one["level"] == "fail" for one in findings)
        mine = [one for one in findings if one["check"] == check]
        worst = max(mine, key=lambda one: ["ok", "warn", "fail"].index(one["level"]), default=None)
        if worst is None:
            return None
        assert worst["fix"] or worst["level"] == "ok"
        return worst["level"], worst["found"], worst["fix"]

    return look
