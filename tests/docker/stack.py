"""The CPU stack of deploy/ from a copy of this checkout, as a user has it."""

import contextlib
import functools
import http.server
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.docker.daemon import ROOT, Docker, pip_setting, run
from tests.serving import read_events
from tests.tools import find_tool

SERVICES = ("hguard", "prometheus", "alertmanager")
"""Grafana's image cannot be made here."""


class Stack:
    """`docker compose` in the copy, and what its ports answer."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self.docker, self.folder, self.key = docker, folder, ""
        self.printed = ""
        ports = dict(zip(("HGUARD", "PROMETHEUS", "ALERTMANAGER"), free_ports(3), strict=True))
        self.hguard, self.prometheus, self.alertmanager = (f"http://127.0.0.1:{port}" for port in ports.values())
        self.settings = {f"PORT_{name}": str(port) for name, port in ports.items()}
        self.settings |= {"COMPOSE_FILE": "compose.yaml:compose.cpu.yaml", "PIP_INDEX_URL": pip_setting("index-url")}
        self.configure(HGUARD_DRAIN_S="200", STOP_GRACE_PERIOD="220s")

    def configure(self, **settings: str) -> None:
        """Write .env."""
        self.settings |= settings
        lines = "".join(f"{name}={value}\n" for name, value in self.settings.items() if value)
        (self.folder / "deploy" / ".env").write_text(lines)

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run it; what it printed, both streams."""
        command = [find_tool("docker-compose"), "--ansi", "never", *arguments]
        return run(
            *command,
            cwd=self.folder / "deploy",
            env={**self.docker.environment, "COMPOSE_PROJECT_NAME": "hguard-test", **environment},
        )

    def up(self) -> float:
        """Start what does not run, wait until all are healthy; seconds until they were."""
        began = time.monotonic()
        try:
            self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "600", *SERVICES)
        except AssertionError:
            report(self.compose("logs", "--tail", "30"))
            raise
        return time.monotonic() - began

    def client(self, **options) -> httpx.Client:
        """With the API key that was shown."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.hguard, headers=headers, timeout=300, **options)

    def stream(self, body: dict, while_running=lambda: None) -> list:
        """Events of a stream; `while_running` is called once its first token is there."""
        text, is_told = "", False
        with self.client() as client, client.stream("POST", "/generate", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            for part in answer.iter_text():
                text += part
                if not is_told and "event: token" in text.replace("\r\n", "\n"):
                    while_running()
                    is_told = True
        return read_events(text.replace("\r\n", "\n"))

    def inspect(self, service: str, form: str) -> str:
        """A field of a service's container, running or not."""
        return self.docker("inspect", "--format", form, self.compose("ps", "--all", "--quiet", service).strip()).strip()

    def query(self, expression: str) -> list[dict]:
        """Of Prometheus, now."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=30)
        return answer.json()["data"]["result"]

    def firing(self) -> set[str]:
        """Alerts that Prometheus holds for firing."""
        alerts = httpx.get(f"{self.prometheus}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def notified(self) -> set[str]:
        """Alerts that have arrived at Alertmanager and are active there."""
        return {alert["labels"]["alertname"] for alert in httpx.get(f"{self.alertmanager}/api/v2/alerts").json()}


@contextlib.contextmanager
def running_stack(docker: Docker, folder: Path) -> Iterator[Stack]:
    """Build, make the secrets, bring it up; everything is gone afterwards."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    stack = Stack(docker, folder)
    try:
        with served_wheels() as wheels:
            began = time.monotonic()
            stack.compose("build", "hguard", BUILD_NETWORK="host", PIP_FIND_LINKS=wheels)
        report(f"image built in {time.monotonic() - began:.0f} s")
        size = int(docker("image", "inspect", "--format", "{{.Size}}", "hguard:cpu"))
        report(f"size of hguard:cpu {size / 1e9:.2f} GB")
        stack.printed = make_secrets(stack)
        stack.key = re.search(r"`client`.*: (hguard-\S+)", stack.printed)[1]
        report(f"first start, the model's download included: all healthy after {stack.up():.0f} s")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")


def make_secrets(stack: Stack, *arguments: str) -> str:
    """What `docker compose run --rm secrets` shows."""
    command = [find_tool("docker-compose"), "--ansi", "never", "--progress", "quiet", "run", "--rm", "secrets"]
    environment = {**stack.docker.environment, "COMPOSE_PROJECT_NAME": "hguard-test"}
    done = subprocess.run(
        [*command, *arguments], cwd=stack.folder / "deploy", env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr


@contextlib.contextmanager
def served_wheels() -> Iterator[str]:
    """A folder of wheels that this machine's pip looks into, where a build reaches it; empty where there is none."""
    folder = pip_setting("find-links")
    if not Path(folder or "/nowhere").is_dir():
        yield folder
        return
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Prints nothing."""

    def log_message(self, *arguments) -> None:
        pass


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def report(line: str) -> None:
    """Shown by `pytest -s`, and where something fails."""
    sys.stdout.write(f"{line}\n")
