"""A real Prometheus with our rules and a real Alertmanager with our routes, beside a service, in a hurry.

The files are those that are deployed, with three changes: addresses are of this machine, the receiver is the test, and
every duration is a FACTORth of what is written. Numbers without a unit (limits, 3600, 900) stay as they are.
"""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.monitoring.series import ALERTMANAGER, PROMETHEUS, RULES

FACTOR = 60
SCRAPE = "500ms"
"""Between two scrapes, and two evaluations: a FACTORth of 15 s would be a load of its own."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def shorten(text: str) -> str:
    """Every duration of a configuration file, such as `5m`, by the factor."""
    return re.sub(
        r"(?<=[\[ ])(\d+)([smhd])(?=[\]\s])",
        lambda found: f"{int(found[1]) * _UNITS[found[2]] * 1000 // FACTOR}ms",
        text,
    )


@dataclass
class Receiver:
    """What Alertmanager told the operator."""

    address: str = ""
    messages: list[tuple[str, str, str]] = field(default_factory=list)
    """(alert, `firing` or `resolved`, its summary), in order."""

    def has(self, alert: str, status: str, after: int = 0) -> bool:
        return any(message[:2] == (alert, status) for message in self.messages[after:])

    def wait(self, alert: str, status: str, seconds: float = 60.0, after: int = 0) -> str:
        """Until a message has come; its summary."""
        wait_for(lambda: self.has(alert, status, after), f"{alert} {status}: only {self.messages}", seconds)
        return next(one[2] for one in self.messages[after:] if one[:2] == (alert, status))


@dataclass
class Stack:
    """Two running servers and who is told."""

    address: str
    receiver: Receiver

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Result of an instant query."""
        answer = httpx.get(f"{self.address}/api/v1/query", params={"query": expression}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]

    def firing(self) -> set[str]:
        return {one["metric"]["alertname"] for one in self.ask('ALERTS{alertstate="firing"}')}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running_stack(folder: Path, service_port: int, key_file: Path) -> Iterator[Stack]:
    """Start both and wait until they are ready; leaves nothing behind."""
    prometheus = shutil.which("prometheus")
    manager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if prometheus is None or manager is None:
        pytest.skip("prometheus and prometheus-alertmanager are not installed: see tests/debian-packages.txt")
    (folder / "rules").mkdir()
    for path in RULES:
        (folder / "rules" / path.name).write_text(shorten(path.read_text()))
    ports = {"prometheus": free_port(), "manager": free_port()}
    with ExitStack() as stack:
        receiver = stack.enter_context(_receiving())
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), SCRAPE)
        (job,) = config["scrape_configs"]
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{service_port}"]
        job["authorization"]["credentials_file"] = str(key_file)
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{ports['manager']}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        routes = yaml.safe_load(shorten(ALERTMANAGER.read_text()))
        routes["receivers"][0]["webhook_configs"] = [{"url": receiver.address}]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(routes))
        storage = [f"--storage.path={folder}/alerts", "--cluster.listen-address="]
        stack.enter_context(_running(manager, folder / "alertmanager.yml", ports["manager"], *storage))
        storage = [f"--storage.tsdb.path={folder}/data"]
        stack.enter_context(_running(prometheus, folder / "prometheus.yml", ports["prometheus"], *storage))
        yield Stack(f"http://127.0.0.1:{ports['prometheus']}", receiver)


@contextmanager
def _running(program: str, config: Path, port: int, *options: str) -> Iterator[None]:
    command = [program, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}", *options]
    log = config.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent)
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(is_ready, f"{program} is not ready")
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for alert in told["alerts"]:
                message = (alert["labels"]["alertname"], alert["status"], alert["annotations"]["summary"])
                receiver.messages.append(message)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
