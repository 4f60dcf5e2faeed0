"""deploy/compose.yaml, its CPU variant, .env.example and the Dockerfile, as docker compose and hadolint read them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.settings import Settings, read_settings
from tests.tools import find_tool

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
VARIANTS = {"cuda": ["compose.yaml"], "cpu": ["compose.yaml", "compose.cpu.yaml"]}
SERVICES = {"hguard", "prometheus", "alertmanager", "grafana", "secrets"}


@pytest.fixture
def folder(tmp_path):
    """A copy without .env, so that nobody's settings count."""
    for name in ("compose.yaml", "compose.cpu.yaml", ".env.example"):
        shutil.copy(DEPLOY / name, tmp_path / name)
    return tmp_path


def compose(folder, *arguments):
    command = [find_tool("docker-compose"), "--profile", "setup", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})


def read(folder, variant):
    """What the files come to."""
    files = [part for name in VARIANTS[variant] for part in ("--file", name)]
    done = compose(folder, *files, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_container_is_confined_restarts_and_rotates_its_log(folder, variant):
    services = read(folder, variant)["services"]
    assert set(services) == SERVICES
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r".+:(v?\d+\.\d+\.\d+|cpu|cuda)", service["image"]), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        if name == "secrets":
            assert service["profiles"] == ["setup"]
            assert service["network_mode"] == service["logging"]["driver"] == "none"
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
            assert name == "hguard" or "healthcheck" in service, name  # hguard's is the image's


def test_the_gpu_is_reserved_for_vllm_and_the_cpu_variant_asks_for_none(folder):
    cuda, cpu = (read(folder, variant)["services"]["hguard"] for variant in ("cuda", "cpu"))
    assert cuda["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert (cuda["environment"]["HGUARD_ENGINE"], cuda["build"]["args"]["DEVICE"]) == ("vllm", "cuda")
    assert "deploy" not in cpu
    assert (cpu["environment"]["HGUARD_ENGINE"], cpu["build"]["args"]["DEVICE"]) == ("transformers", "cpu")
    assert cpu["image"] != cuda["image"]


def test_docker_kills_later_than_the_drain_ends(folder):
    grace = read(folder, "cuda")["services"]["hguard"]["stop_grace_period"]
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", grace).groups()
    assert 60 * int(minutes or 0) + int(seconds) >= Settings.model_fields["drain_s"].default + 10


def test_no_password_stands_in_the_environment(folder):
    for name, service in read(folder, "cuda")["services"].items():
        for variable in service.get("environment", {}):
            is_file = re.search(r"(__FILE|_FILE|_PATH)$", variable)
            assert is_file or not re.search(r"KEY|PASSWORD|TOKEN|SECRET", variable), (name, variable)


def test_a_misspelt_name_is_refused_by_the_schema(folder):
    file = folder / "compose.yaml"
    file.write_text(file.read_text().replace("stop_grace_period:", "stop_grace_perod:"))
    done = compose(folder, "config", "--quiet")
    assert done.returncode != 0
    assert "stop_grace_perod" in done.stderr


def test_every_line_of_the_example_works(folder, monkeypatch):
    example = (folder / ".env.example").read_text()
    lines = re.findall(r"^#([A-Z_]+=.*)$", example, re.MULTILINE)
    assert len(lines) > 15
    (folder / ".env").write_text("\n".join(lines))
    done = compose(folder, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    hguard = json.loads(done.stdout)["services"]["hguard"]
    assert hguard["image"] == "hguard:cpu"  # COMPOSE_FILE's line
    keys = folder / "keys.toml"
    keys.write_text("keys = []")
    monkeypatch.chdir(folder / "..")
    for name, value in hguard["environment"].items():
        monkeypatch.setenv(name, str(keys) if name == "HGUARD_API_KEYS_FILE" else value or "")
    assert read_settings().vllm_args == {"tensor_parallel_size": 2}


def test_every_variable_of_the_compose_files_is_explained(folder):
    asked = {name for file in VARIANTS["cpu"] for name in re.findall(r"\$\{(\w+)", (folder / file).read_text())}
    assert asked
    explained = set(re.findall(r"^#([A-Z_]+)=", (folder / ".env.example").read_text(), re.MULTILINE))
    assert asked <= explained


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run([find_tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
