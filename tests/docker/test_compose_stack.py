"""`docker compose up` without a GPU: containers, keys, metrics, an alert, and what a stop and new containers keep.

Real daemon, real image, real model, real Prometheus and Alertmanager. `make e2e-docker`; about eight minutes.
"""

import re
import socket
import stat
import threading

import httpx
import pytest

from tests.docker.daemon import run, wait_for
from tests.docker.stack import make_secrets, report

pytestmark = pytest.mark.slow

QUESTION = {"prompt": "What is the capital of France?", "sampling": {"max_tokens": 32}}
ENDLESS = {"prompt": "Count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", "raw": True}
"""The default model goes on with it until it may not."""


def test_an_answer_comes_only_with_a_key_and_is_scored(stack):
    assert httpx.post(f"{stack.hguard}/generate", json=QUESTION, timeout=60).status_code == 401
    with stack.client() as client:
        answer = client.post("/generate", json=QUESTION)
    assert answer.status_code == 200, answer.text
    assert "Paris" in answer.json()["choices"][0]["text"]
    guard = answer.json()["choices"][0]["guard"]
    assert guard["status"] == "scored"
    assert 0 < guard["risk"] < 1


def test_each_secret_is_readable_by_its_container_alone_and_made_once(stack):
    folder = stack.folder / "deploy" / "secrets"
    owners = {"hguard_api_keys": 10001, "hf_token": 10001, "hguard_metrics_key": 65534, "grafana_admin_password": 472}
    before = {name: (folder / name).read_bytes() for name in owners}
    for name, owner in owners.items():
        status = (folder / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (owner, 0o600), name
    assert before["hguard_metrics_key"].decode() not in stack.printed
    assert stack.key.encode() not in before["hguard_api_keys"]
    assert make_secrets(stack).strip() == ""
    assert {name: (folder / name).read_bytes() for name in owners} == before
    logs = stack.compose("logs")
    for text in (stack.key, before["hguard_metrics_key"].decode(), before["grafana_admin_password"].decode()):
        assert text not in logs
        assert text not in stack.inspect("hguard", "{{json .Config}}")


def test_a_key_that_is_added_counts_without_a_restart(stack):
    shown = make_secrets(stack, "second", "--scopes", "infer")
    headers = {"x-api-key": shown.rpartition(" ")[2].strip()}
    wait_for(lambda: httpx.get(f"{stack.hguard}/version", headers=headers).status_code == 200, 30, "the new key")
    assert "same name" in make_secrets(stack, "second")


def test_no_container_is_root_or_can_gain_anything_or_write_beside_its_volumes(stack):
    for service, writable in (("hguard", "/var/lib/hguard"), ("prometheus", "/prometheus"), ("alertmanager", "/tmp")):
        facts = stack.compose("exec", "-T", service, "cat", "/proc/self/status")
        fields = dict(line.split(":", 1) for line in facts.splitlines())
        assert fields["Uid"].split()[0] != "0", service
        assert int(fields["CapPrm"], 16) == int(fields["CapBnd"], 16) == 0, service
        assert fields["NoNewPrivs"].strip() == "1", service
        touched = stack.compose("exec", "-T", service, "sh", "-c", "touch /etc/x 2>&1 || true")
        assert "Read-only file system" in touched, service
        if service != "alertmanager":
            stack.compose("exec", "-T", service, "sh", "-c", f"touch {writable}/x && rm {writable}/x")


def test_the_image_holds_the_service_and_neither_tests_nor_secrets(stack):
    top, deploy = (stack.compose("exec", "-T", "hguard", "ls", folder).split() for folder in ("/app", "/app/deploy"))
    assert {"probes", "service", "pyproject.toml", "Makefile"} <= set(top)
    assert not {"tests", "offline", "shared", ".git"} & set(top)
    assert deploy == ["install_vllm.py"]


def test_ports_are_open_on_loopback_only(stack):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; names the address that packets would leave from
        outside = probe.getsockname()[0]
    for address in (stack.hguard, stack.prometheus, stack.alertmanager):
        port = int(address.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((outside, port), timeout=10)


def test_prometheus_scrapes_with_a_key_that_opens_nothing_else(stack):
    with stack.client() as client:
        assert client.post("/generate", json=QUESTION).status_code == 200
        assert client.get("/metrics").status_code == 403
    key = (stack.folder / "deploy" / "secrets" / "hguard_metrics_key").read_text()
    headers = {"authorization": f"Bearer {key}"}
    assert httpx.post(f"{stack.hguard}/generate", json=QUESTION, headers=headers).status_code == 403
    wait_for(lambda: [row["value"][1] for row in stack.query('up{job="hguard"}')] == ["1"], 60, "up == 1")
    wait_for(lambda: float(stack.query("hguard_golden_trace_ok")[0]["value"][1]) == 1, 60, "the golden trace's series")
    wait_for(lambda: any(float(row["value"][1]) > 0 for row in stack.query("hguard_response_risk_count")), 60, "risks")


def test_an_alert_reaches_alertmanager_when_hguard_is_down_and_ends_when_it_is_back(stack):
    assert "HguardDown" not in stack.firing()
    wait_for(lambda: [row["value"][1] for row in stack.query('up{job="hguard"}')] == ["1"], 60, "up == 1")
    stack.compose("stop", "hguard")
    assert stack.inspect("hguard", "{{.State.ExitCode}}") == "0"
    wait_for(lambda: "HguardDown" in stack.firing(), 360, "HguardDown in Prometheus")
    wait_for(lambda: "HguardDown" in stack.notified(), 60, "HguardDown in Alertmanager")
    stack.up()
    wait_for(lambda: "HguardDown" not in stack.firing(), 120, "the end of HguardDown")
    wait_for(lambda: "HguardDown" not in stack.notified(), 360, "its end in Alertmanager")


def test_the_backup_of_the_readme_brings_labels_and_probes_back(stack):
    shipped = stack.folder / "probes" / "library" / "smollm2-135m-instruct"
    stack.compose("cp", str(shipped), "hguard:/var/lib/hguard/probes/")
    with stack.client() as client:
        label = {"id": client.post("/generate", json=QUESTION).json()["id"], "label": "faithful"}
        assert client.post("/feedback", json=label).json()["replaced"] is False
    keep, bring_back = (
        line.replace("hguard_hguard-state", "hguard-test_hguard-state").replace("hguard:cuda", "hguard:cpu")
        for line in re.findall(r"^docker run --rm --user 0 .+$", (stack.folder / "deploy/README.md").read_text(), re.M)
    )
    shell = {"cwd": stack.folder / "deploy", "env": stack.docker.environment}
    stack.compose("stop", "hguard")
    run("sh", "-c", keep, **shell)
    stack.compose("rm", "--force", "hguard")
    stack.docker("volume", "rm", "hguard-test_hguard-state")
    stack.compose("up", "--no-start", "--no-build", "hguard")
    run("sh", "-c", bring_back, **shell)
    stack.up()
    assert "probe.json" in stack.compose("exec", "-T", "hguard", "find", "/var/lib/hguard/probes")
    with stack.client() as client:
        assert client.post("/feedback", json=label).json()["replaced"] is True


def test_stop_loses_no_token_and_labels_and_model_outlive_the_containers(stack):
    body = {**ENDLESS, "sampling": {"max_tokens": 200}}
    undisturbed = stack.stream(body)
    stopping = threading.Thread(target=stack.compose, args=("stop", "hguard"))
    stopped = stack.stream(body, stopping.start)
    stopping.join()
    assert [name for name, _, _ in stopped][-1] == "done"
    assert len(tokens(undisturbed)) == 200
    assert tokens(stopped) == tokens(undisturbed)
    assert stack.inspect("hguard", "{{.State.ExitCode}}") == "0"

    stack.up()
    with stack.client() as client:
        answer = client.post("/generate", json=QUESTION).json()
        label = {"id": answer["id"], "label": "faithful"}
        assert client.post("/feedback", json=label).json()["replaced"] is False
    cached = model_files(stack)
    assert any(name.endswith(".safetensors") for name in cached)
    container = stack.inspect("hguard", "{{.Id}}")
    stack.compose("down")
    report(f"start with the model in its volume: all healthy after {stack.up():.0f} s")
    assert stack.inspect("hguard", "{{.Id}}") != container
    assert model_files(stack) == cached
    assert "download" not in stack.compose("logs", "hguard")
    with stack.client() as client:
        assert client.post("/feedback", json=label).json()["replaced"] is True


def test_a_stream_that_outlasts_the_drain_ends_in_an_error_and_not_in_silence(stack):
    stack.configure(HGUARD_DRAIN_S="1")
    stack.up()
    stopping = threading.Thread(target=stack.compose, args=("stop", "hguard"))
    events = stack.stream({**ENDLESS, "sampling": {"max_tokens": 1500}}, stopping.start)
    stopping.join()
    name, _, data = events[-1]
    assert (name, data["error"]["code"]) == ("error", "draining")
    assert [name for name, _, _ in events].count("error") == 1
    assert stack.inspect("hguard", "{{.State.ExitCode}}") == "0"


def tokens(events):
    """(id, text) of each token."""
    return [(number, data["text"]) for name, number, data in events if name == "token"]


def model_files(stack):
    """Name -> inode, time and size of what lies in the cache volume."""
    found = stack.compose(
        "exec", "-T", "hguard", "find", "/var/cache/hguard", "-type", "f", "-printf", "%p %i %T@ %s\\n"
    )
    return dict(line.split(" ", 1) for line in found.splitlines())
