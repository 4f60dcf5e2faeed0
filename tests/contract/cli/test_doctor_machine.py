"""`hguard doctor` on packages, GPU and port: what is wrong is made wrong, and the line that says so names the fix."""

import json
import os
import socket

import pytest
import torch

from tests.contract.cli.terminal import run
from tests.running_service import running_service

pytestmark = pytest.mark.usefixtures("as_an_operator")


def installed(folder, name, version, *lines):
    """What pip leaves of a package, before all others on the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *lines]
    (info / "METADATA").write_text("\n".join(head) + "\n")
    return folder


def findings_with(folder, cwd, **variables):
    done = run("doctor", "--quick", "--json", cwd=cwd, first_on_path=folder, **variables)
    return done.returncode, [(one["check"], one["level"], one["found"], one["fix"]) for one in json.loads(done.stdout)]


def test_python_and_packages_out_of_their_ranges(tmp_path):
    site = installed(
        tmp_path / "a",
        "hguard",
        "9",
        "Requires-Python: >=3.99",
        "Requires-Dist: numpy>=99",
        "Requires-Dist: nowhere-to-be-found>=1",
    )
    status, found = findings_with(site, tmp_path, HGUARD_PORT=0, HGUARD_ENGINE="fake")
    assert status == 1
    wrong = {(check, level): (words, fix) for check, level, words, fix in found if level == "fail"}
    assert "needs >=3.99" in wrong["python", "fail"][0]
    packages = [(words, fix) for check, level, words, fix in found if check == "packages"]
    assert [words.split()[0] for words, _ in packages] == ["numpy", "nowhere-to-be-found"]
    assert "not installed" in packages[1][0]
    assert packages[0][1].startswith("pip install 'numpy>=99'")


def test_a_vllm_that_was_built_for_another_torch(tmp_path):
    site = installed(tmp_path / "a", "vllm", "0.25.1", "Requires-Dist: torch==1.0.0")
    _, found = findings_with(site, tmp_path, HGUARD_PORT=0, HGUARD_ENGINE="vllm", HGUARD_MODEL="nowhere.gguf")
    level, words, fix = next(rest for check, *rest in found if check == "vllm")
    assert (level, "needs torch==1.0.0" in words, "make" in fix) == ("fail", True, True)


def test_a_vllm_that_is_asked_for_and_not_there(doctor, monkeypatch):
    from service.cli import check_machine

    monkeypatch.setattr(check_machine, "_VLLM", ("nowhere-to-be-found",))  # it may be installed here
    level, _, fix = doctor("vllm", engine="vllm")
    assert (level, "make vllm" in fix) == ("fail", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there(doctor, tmp_path, monkeypatch):
    level, found, fix = doctor("gpu", device="cuda")
    assert (level, "HGUARD_DEVICE wants a GPU" in found) == ("fail", True)
    assert "driver" in fix
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 999.1\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    level, found, fix = doctor("gpu", device="auto")
    assert (level, "driver 999.1" in found) == ("warn", True)
    assert "CUDA" in fix


def test_a_port_that_another_program_has_and_one_that_hguard_has(doctor, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.listen()
        level, found, _ = doctor("port", engine="fake", port=taken.getsockname()[1])
        assert (level, "cannot listen" in found) == ("fail", True)
    with running_service(tmp_path) as service:
        assert doctor("port", port=service.port) == (
            "ok",
            f"127.0.0.1:{service.port} is served by an hguard already",
            "",
        )


def test_an_address_of_another_machine(doctor):
    level, found, _ = doctor("port", engine="fake", host="192.0.2.1", insecure=1, port=8000)
    assert (level, "192.0.2.1" in found) == ("fail", True)
    assert doctor("keys")[0] == "warn"


@pytest.mark.parametrize("package", ["torch", "sqlalchemy"])
def test_hazard_doctor_dies_of_what_it_should_find(tmp_path, package):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{package}.py").write_text("raise ImportError('libnothing.so: cannot open')\n")
    status, found = findings_with(tmp_path / "a", tmp_path, HGUARD_PORT=0, HGUARD_ENGINE="fake")
    assert status == 1
    assert [check for check, *_ in found] == ["python", "packages", "imports"]
    assert f"{package} cannot be imported: ImportError: libnothing.so" in found[-1][2]
    helped = run("doctor", "--help", cwd=tmp_path, first_on_path=tmp_path / "a")
    assert (helped.returncode, helped.stderr) == (0, "")
