"""Somebody who reads a page and types what it says: in a copy of the repository, with its commands on the path.

Taken instead of what stands on the page: a free port for 8000, the installed environment for the one that `make setup`
would build, and the variables of a block's `with`.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import httpx

from tests.docs.blocks import ROOT, Block

_APART = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info", "node_modules")
READY_SECONDS = 180
BLOCK_SECONDS = 1800
"""Only against a hang: the training of the tutorial takes minutes on a busy machine."""


class Reader:
    """One page's reader; `close` ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.home, self.port = folder / "hguard", _free_port()
        shutil.copytree(ROOT, self.home, ignore=_APART, ignore_dangling_symlinks=True)
        self._server: subprocess.Popen[str] | None = None
        self._log = folder / "server.log"
        self._environment = self._make_environment(folder)

    def type(self, block: Block) -> None:
        """Run a block and look at what it must do."""
        text = re.sub(r"\b(localhost|127\.0\.0\.1):8000\b", rf"\1:{self.port}", block.text)
        command = (
            [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        )
        environment = {**self._environment, **block.variables}
        if block.is_server:
            self._serve(block, command, environment)
            return
        done = subprocess.run(
            command,
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        log = self._log.read_text() if self._log.exists() else ""
        assert done.returncode == block.exit_code, f"{block.where}: exit code {done.returncode}\n{done.stdout}\n{log}"
        if block.prints is not None:
            assert re.search(block.prints, done.stdout), f"{block.where}: no {block.prints!r} in\n{done.stdout}"

    def close(self) -> None:
        """End the server, and whatever it started."""
        if self._server is None:
            return
        try:
            os.killpg(self._server.pid, signal.SIGTERM)
            self._server.wait(60)
        except ProcessLookupError:
            self._server.wait()
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    def _serve(self, block: Block, command: list[str], environment: dict[str, str]) -> None:
        self.close()
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                command, cwd=self.home, env=environment, stdout=log, stderr=log, text=True, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            ended = self._server.poll() is not None
            assert not ended, f"{block.where}: the server ended\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"{block.where}: not ready\n{self._log.read_text()}"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def _make_environment(self, folder: Path) -> dict[str, str]:
        commands, venv = folder / "bin", folder / "venv"
        commands.mkdir()
        for name, target in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items():
            module, function = target.split(":")
            script = commands / name
            script.write_text(
                f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            script.chmod(0o755)
        venv.mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (venv / name).symlink_to(Path(sys.prefix) / name)
        for stamp in (".done", ".vllm"):  # younger than what they depend on: nothing is installed
            (venv / stamp).touch()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HGUARD_")}
        if cache := os.environ.get("HGUARD_CACHE"):
            kept["HGUARD_CACHE"] = cache
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), kept["PATH"]])
        return {
            **kept,
            "PATH": path,
            "PYTHONPATH": str(self.home),
            "VENV": str(venv),
            "HGUARD_PORT": str(self.port),
            "HGUARD_DEVICE": "cpu",
            "XDG_STATE_HOME": str(folder / "state"),
            "NO_COLOR": "1",
        }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
