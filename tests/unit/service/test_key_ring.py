"""The file of API keys: read, read again, and refused in one line that repeats nothing of it."""

import hashlib
import hmac
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service import keys
from service.admission import key_ring
from service.admission.auth import Limits
from service.admission.key_ring import ANYONE, KeyRing, KeysFileError, read_keys
from service.observe.metrics import Metrics
from service.settings import read_settings
from tests.keys import digest, write_keys

KEY = b"key of infer"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to."""
    now = [0.0]
    monkeypatch.setattr("service.admission.key_ring.time.monotonic", lambda: now[0])
    return now


def ring_of(path, admin=None):
    return KeyRing(path, admin, Metrics())


def loads(ring, result):
    return ring._metrics.registry.get_sample_value("hguard_api_key_loads_total", {"result": result}) or 0


def test_limits_are_read(tmp_path):
    text = (
        'requests_per_minute = 60, tokens_per_minute = 9000, max_tokens = 64, policies = ["block"], '
        'max_threshold = 0.5, on_error = "fail_closed"'
    )
    caller = ring_of(write_keys(tmp_path, text)).find(KEY)
    assert caller.limits == Limits(
        requests_per_minute=60,
        tokens_per_minute=9000,
        max_tokens=64,
        policies=("block",),
        max_threshold=0.5,
        on_error="fail_closed",
    )
    assert (caller.name, caller.scopes) == ("infer", {"infer"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys"),
        ("keys = [", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("[[keys]]", "keys.0.name"),
        ('[[keys]]\nname = "a"\nsha256 = "hunter2"\nscopes = ["infer"]', "keys.0.sha256"),
        ('[[keys]]\nname = "a b"\nsha256 = "DIGEST"\nscopes = ["infer"]', "keys.0.name"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = []', "keys.0.scopes"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["hunter2"]', "keys.0.scopes.0"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\nhunter2 = 1', "unknown field"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\nlimits = {policies = []}', "limits.policies"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\nlimits = {max_tokens = "9"}', "max_tokens"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\nlimits = {max_threshold = nan}', "threshold"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\nlimits = {max_token = 9}', "there are"),
        ('[[keys]]\nname = "a"\nsha256 = "DIGEST"\nscopes = ["infer"]\n' * 2, "same name"),
    ],
)
def test_hazard_a_wrong_file_is_half_understood(tmp_path, text, words):
    path = tmp_path / "keys.toml"
    path.write_text(text.replace("DIGEST", digest("infer")))
    with pytest.raises(KeysFileError) as failure:
        read_keys(path)
    message = str(failure.value)
    assert words in message
    assert message.startswith(f"HGUARD_API_KEYS_FILE={path}: ")
    assert "\n" not in message
    assert "hunter2" not in message


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(KeysFileError, match="No such file"):
        ring_of(tmp_path / "none.toml")
    (tmp_path / "keys.toml").write_bytes(b"\xff")
    with pytest.raises(KeysFileError, match="is not TOML"):
        read_keys(tmp_path / "keys.toml")


def test_a_changed_file_counts_within_a_second_and_not_before(tmp_path, clock):
    path = write_keys(tmp_path)
    ring = ring_of(path)
    assert ring.find(b"key of new") is None
    write_keys(tmp_path, new="infer")
    assert ring.find(b"key of new") is None
    clock[0] = 1.5
    assert ring.find(b"key of new").name == "new"
    path.write_text("keys = []")
    clock[0] = 3.0
    assert ring.find(KEY) is None, "a key that was taken out"
    assert (loads(ring, "ok"), loads(ring, "failed")) == (2, 0)


@pytest.mark.parametrize("damage", [lambda path: path.write_text("keys = ["), lambda path: path.unlink()])
def test_hazard_a_damaged_file_locks_everybody_out_or_lets_everybody_in(tmp_path, clock, damage, caplog):
    path = write_keys(tmp_path)
    ring = ring_of(path)
    damage(path)
    for clock[0] in (2.0, 4.0, 6.0):
        assert ring.find(KEY).name == "infer"
        assert ring.find(b"another") is None
        assert ring.find(None) is None
    assert loads(ring, "failed") == 1, "once, not with every look"
    assert "from before are used on" in caplog.text
    assert ring._metrics.registry.get_sample_value("hguard_api_keys_file_ok") == 0
    write_keys(tmp_path, new="infer")
    clock[0] = 8.0
    assert ring.find(b"key of new") is not None
    assert ring._metrics.registry.get_sample_value("hguard_api_keys_file_ok") == 1


def test_hazard_the_time_of_a_comparison_tells_which_key_is_near(tmp_path, monkeypatch):
    ring, compared = ring_of(write_keys(tmp_path), digest("first")), []
    really = hmac.compare_digest

    def compare(known, shown):
        compared.append(known)
        return really(known, shown)

    monkeypatch.setattr(key_ring.hmac, "compare_digest", compare)
    counts = []
    for shown in (b"key of first", KEY, b"another"):
        compared.clear()
        ring.find(shown)
        counts.append(len(compared))
    assert counts == [4, 4, 4]


def test_hazard_no_key_is_taken_for_the_hash_of_nothing(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nname = "a"\nsha256 = "{hashlib.sha256(b"").hexdigest()}"\nscopes = ["admin"]\n')
    assert ring_of(path).find(None) is None


def test_without_a_file_anyone_may_but_not_administer():
    ring = ring_of(None)
    assert ring.find(None) is ring.find(b"sk-anything") is ANYONE
    assert not ring.has_admin
    ring = ring_of(None, digest("first").upper())
    assert ring.find(b"key of first").scopes == {"infer", "admin", "metrics"}
    assert ring.find(b"another") is ANYONE


def test_the_admin_setting_opens_nothing_else_beside_a_file(tmp_path):
    ring = ring_of(write_keys(tmp_path), digest("first"))
    assert ring.find(b"key of first").scopes == {"admin"}


def test_a_made_key_opens_and_is_shown_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "keys.toml"
    shown = []
    for name, scopes in (("gateway", ["infer"]), ("prometheus", ["metrics", "infer"])):
        made = subprocess.run(
            [sys.executable, "-m", "service.keys", name, "--scopes", *scopes],
            cwd=Path(keys.__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        with path.open("a") as file:
            file.write(made.stdout)
        shown.append(made.stderr.strip())
        assert made.stderr.strip() not in made.stdout
    ring = ring_of(path)
    assert [ring.find(key.encode()).name for key in shown] == ["gateway", "prometheus"]
    assert ring.find(shown[1].encode()).scopes == {"metrics", "infer"}
    assert len(tomllib.loads(path.read_text())["keys"]) == 2
    assert all(len(key) > 40 for key in shown)


@pytest.mark.parametrize("arguments", [["a b"], ["a", "--scopes", "root"], []])
def test_a_key_with_a_wrong_name_or_scope_is_not_made(arguments, capsys):
    with pytest.raises(SystemExit):
        keys.main(arguments)
    assert "hguard-" not in capsys.readouterr().err


def test_an_address_for_others_is_allowed_with_keys(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGUARD_HOST", "0.0.0.0")
    monkeypatch.setenv("HGUARD_API_KEYS_FILE", str(write_keys(tmp_path)))
    assert read_settings().api_keys_file == tmp_path / "keys.toml"
