"""Debian's nginx as a process of its own, with deploy/integrations/nginx.conf and the ports of a test."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

CONFIG = Path(__file__).parents[1] / "deploy" / "integrations" / "nginx.conf"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def config_for(replicas: list[int], port: int, text: str) -> str:
    """The file with other addresses and nothing else changed, but for folders that any user may write."""
    servers = re.findall(r"^ *server 127\.0\.0\.1:\d+(.*);$", text, re.MULTILINE)
    assert len(servers) == 4, "two in each of the two upstreams"
    own = "\n".join(f"        server 127.0.0.1:{replica}{servers[0]};" for replica in replicas)
    text, n_upstreams = re.subn(r"(^ *server 127\.0\.0\.1:.*\n)+", own + "\n", text, flags=re.MULTILINE)
    text, n_listen = re.subn(r"listen 127\.0\.0\.1:8080;", f"listen 127.0.0.1:{port};", text)
    assert (n_upstreams, n_listen) == (2, 1)
    paths = " ".join(f"{kind}_temp_path temp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return text.replace("http {\n", "http {\n    " + paths + "\n", 1)


@contextlib.contextmanager
def running_nginx(folder: Path, *replicas: int, text: str | None = None) -> Iterator[str]:
    """Its address, in front of replicas on these ports of loopback; skips where there is no nginx."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian's nginx-light)")
    port = free_port()
    (folder / "nginx.conf").write_text(config_for(list(replicas), port, text or CONFIG.read_text()))
    own = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
    command = [nginx, "-p", f"{folder}/", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log", "-g", own]
    with open(folder / "access.log", "a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + 20
        while True:
            try:
                httpx.get(address + "/metrics", timeout=5)
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "access.log").read_text()
                assert time.monotonic() < ends, "nginx did not come up"
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()  # at once; its workers end with it
        process.wait(10)
