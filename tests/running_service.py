"""`python -m service` over the fake engine as a process of its own, and plain HTTP to it, timed."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class RunningService:
    """A process that serves."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str) -> int:
        """Of a GET; 0 where nobody listens."""
        try:
            return httpx.get(self.address + path, timeout=10).status_code
        except httpx.TransportError:
            return 0

    def metric(self, name: str) -> float:
        """A series without labels."""
        lines = httpx.get(self.address + "/metrics", timeout=10).text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"hguard_{name} ")))


@contextlib.contextmanager
def running_service(folder: Any, *, awaited: str = "/readyz", **settings: Any) -> Iterator[RunningService]:
    """Start, wait until `awaited` is 200, and leave nothing behind; `fake_step_s=0.05` is HGUARD_FAKE_STEP_S=0.05."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"engine": "fake", "port": port, "log_level": "warning", **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HGUARD_")}
    environment |= {f"HGUARD_{name.upper()}": str(value) for name, value in settings.items()}
    environment["PYTHONPATH"] = os.getcwd()
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, cwd=folder)
    service = RunningService(process, settings["port"])
    try:
        deadline = time.monotonic() + 120
        while service.status(awaited) != 200:
            assert process.poll() is None, "the service ended at its start"
            assert time.monotonic() < deadline, "the service did not come up"
            time.sleep(0.05)
        yield service
    finally:
        process.kill()
        process.wait()


@dataclass
class Timed:
    """One connection that is kept alive, and how long each of its requests took."""

    port: int
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """Send, read the answer whole, note the time."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request(method, path, data, {"content-type": "application/json"} if data else {})
        answer = self._connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        self.seconds.append(time.perf_counter() - began)
        return answer

    def close(self) -> None:
        self._connection.close()
