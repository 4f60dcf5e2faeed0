"""LiteLLM's gateway as a process of its own, in a virtual environment of its own: its pins do not fit beside ours."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.venvs import venv_with

VERSION = "1.106.2"
MASTER_KEY = "sk-" + "0123456789abcdef" * 3


def litellm_command() -> Path:
    """The gateway's command; installing it takes about a minute."""
    return venv_with(f"litellm-{VERSION}", f"litellm[proxy]=={VERSION}") / "bin" / "litellm"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float = 120.0) -> None:
    """Until it answers 200."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer: {log.read_text()[-3000:]}")


class Process:
    """A server process that can be killed and started again on its port."""

    def __init__(self, command: list, ready_path: str, folder: Path, environment: dict) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.ready = self.address + ready_path
        self.folder, self.log = folder, folder / f"{self.port}.log"
        self.command = [str(part).replace("{port}", str(self.port)) for part in command]
        self.environment = {
            name: value.replace("{port}", str(self.port)) for name, value in (os.environ | environment).items()
        }
        self.start()

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        wait_for(self.ready, self.process, self.log)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(*processes: Process):
    """All of them up; all of them ended."""
    try:
        for process in processes:
            process.wait()
        yield
    finally:
        for process in processes:
            process.kill()


def start_hguard(folder: Path) -> Process:
    environment = {
        "HGUARD_ENGINE": "fake",
        "HGUARD_PORT": "{port}",
        "HGUARD_FEEDBACK_URL": f"sqlite:///{folder}/labels.db",
        "PYTHONPATH": os.getcwd(),
    }
    return Process([sys.executable, "-m", "service"], "/readyz", folder, environment)


def start_gateway(config: Path, folder: Path, *, upstream: str, hguard: str) -> Process:
    environment = {
        "UPSTREAM_URL": upstream,
        "UPSTREAM_API_KEY": "none",
        "HGUARD_URL": hguard,
        "HGUARD_API_KEY": "none",
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # nothing is fetched at its start
    }
    command = [litellm_command(), "--config", config, "--host", "127.0.0.1", "--port", "{port}"]
    return Process(command, "/health/liveliness", folder, environment)
