"""deploy/make_secrets.py: made once, for one reader each, and never half."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.admission.key_ring import read_keys

ROOT = Path(__file__).parents[3]
NAMES = {"hguard_api_keys", "hguard_metrics_key", "hf_token", "grafana_admin_password"}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it runs as root in its container: it gives files away")


def make(folder, *arguments):
    command = [sys.executable, "deploy/make_secrets.py", "--folder", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def callers(folder):
    """SHA-256 -> (name, scopes)."""
    return {digest: (caller.name, set(caller.scopes)) for digest, caller in read_keys(folder / "hguard_api_keys")}


def digest(key):
    return hashlib.sha256(key.encode()).digest()


def test_a_second_run_changes_and_shows_nothing(tmp_path):
    first = make(tmp_path)
    assert first.returncode == 0, first.stderr
    before = contents(tmp_path)
    assert set(before) == NAMES
    second = make(tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert contents(tmp_path) == before


def test_the_keys_open_what_they_are_for_and_the_metrics_key_is_never_shown(tmp_path):
    shown = make(tmp_path).stderr
    metrics_key = (tmp_path / "hguard_metrics_key").read_text()
    client_key = shown.splitlines()[0].rpartition(" ")[2]
    assert callers(tmp_path)[digest(metrics_key)] == ("prometheus", {"metrics"})
    assert callers(tmp_path)[digest(client_key)] == ("client", {"infer"})
    assert metrics_key not in shown
    assert (tmp_path / "grafana_admin_password").read_text() in shown


def test_each_file_belongs_to_the_user_of_its_container(tmp_path):
    make(tmp_path)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    owners = {file.name: file.stat().st_uid for file in tmp_path.iterdir()}
    compose, dockerfile = ((ROOT / name).read_text() for name in ("deploy/compose.yaml", "Dockerfile"))
    assert all(name in compose for name in owners)
    assert f"USER {owners['hguard_api_keys']}:" in dockerfile
    assert len(set(owners.values())) == 3


def test_half_of_the_keys_is_refused_and_nothing_is_overwritten(tmp_path):
    make(tmp_path)
    (tmp_path / "hguard_metrics_key").unlink()
    before = contents(tmp_path)
    done = make(tmp_path)
    assert done.returncode == 1
    assert "hguard_api_keys is there and hguard_metrics_key is not" in done.stderr
    assert contents(tmp_path) == before


def test_a_key_is_added_in_place_so_that_the_mounted_file_has_it(tmp_path):
    make(tmp_path)
    inode = (tmp_path / "hguard_api_keys").stat().st_ino
    key = make(tmp_path, "operator", "--scopes", "admin").stderr.split()[-1]
    assert callers(tmp_path)[digest(key)] == ("operator", {"admin"})
    assert len(callers(tmp_path)) == 3
    assert (tmp_path / "hguard_api_keys").stat().st_ino == inode


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["client"], "same name"), (["a b"], "a name is up to"), (["new", "--scopes", "all"], "invalid choice")],
)
def test_a_key_that_cannot_be_is_refused_in_words_and_the_file_stays(tmp_path, arguments, said):
    make(tmp_path)
    before = contents(tmp_path)
    done = make(tmp_path, *arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "hguard-" not in done.stderr
    assert contents(tmp_path) == before


def test_a_key_before_the_first_run_says_what_to_run(tmp_path):
    done = make(tmp_path, "operator")
    assert done.returncode == 1
    assert "run this without a name first" in done.stderr
