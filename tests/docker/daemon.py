"""A Docker daemon of the test's own, and base images made from Debian's packages where no registry can be reached.

The stand-ins carry the names that Dockerfile and compose.yaml ask for: upstream's Python, Prometheus and Alertmanager
as far as those two files need them. `DOCKER_HOST` names a daemon that has its images already; it is used as it is.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
DISK_GB = 12
"""More than the images and what their build leaves: with under 5 GB the build ended without space."""
PACKAGES = "python3,python3-venv,ca-certificates"
PYTHON = """
FROM hguard-test-debian
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
"""
MONITORING = """
FROM hguard-test-debian
RUN apt-get update -qq && apt-get install -qq --no-install-recommends prometheus prometheus-alertmanager \\
    && install -d -o 65534 -g 65534 /prometheus /alertmanager
USER 65534
ENTRYPOINT ["{binary}"]
"""


class NoDaemonError(Exception):
    """Docker cannot run on this machine; has the daemon's last words."""


class Docker:
    """`docker` against one daemon."""

    def __init__(self, host: str) -> None:
        # The builder without buildx: what a Dockerfile needs beyond it, Debian's daemon does not have.
        self.environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}

    def __call__(self, *arguments: str, **options) -> str:
        """Run it; the output, or an error that has it."""
        return run("docker", *arguments, env=self.environment, **options)


def run(*command: str, **options) -> str:
    """Run a command; its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def missing() -> str | None:
    """Why no daemon can be started here; None where one can, or is named."""
    if "DOCKER_HOST" in os.environ:
        return None
    if os.geteuid() != 0:
        return "dockerd needs root; DOCKER_HOST would name a daemon that runs"
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < DISK_GB:
        return f"{free:.0f} GB free in {tempfile.gettempdir()}, and images and their layers want {DISK_GB}"
    absent = [name for name in ("docker", "dockerd", "debootstrap") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (Debian's docker.io and debootstrap)" if absent else None


@contextlib.contextmanager
def docker_daemon() -> Iterator[Docker]:
    """The daemon of DOCKER_HOST; else one that is started, has the stand-ins, and leaves nothing behind.

    Raises:
        NoDaemonError: It does not come up: no right to mount or to set packet filters, as in most containers.
    """
    if "DOCKER_HOST" in os.environ:
        yield Docker(os.environ["DOCKER_HOST"])
        return
    folder = Path(tempfile.mkdtemp(prefix="hguard-docker-"))  # short: a socket's path has at most 107 characters
    socket = f"unix://{folder}/docker.sock"
    # Nothing here uses the default bridge, so none is left behind.
    flags = [
        "--bridge=none",
        "--data-root",
        f"{folder}/data",
        "--exec-root",
        f"{folder}/exec",
        "--pidfile",
        f"{folder}/pid",
    ]
    firewall = saved_firewall()
    log = (folder / "log").open("wb")
    daemon = subprocess.Popen(["dockerd", *flags, "--host", socket], stdout=log, stderr=log)
    try:
        docker = Docker(socket)
        wait_for(lambda: daemon.poll() is not None or is_up(docker), 60, "dockerd")
        if daemon.poll() is not None:
            raise NoDaemonError("dockerd ended at its start: " + (folder / "log").read_text()[-500:])
        make_stand_ins(docker, folder)
        yield docker
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        log.close()
        run("iptables-restore", input=firewall)
        unmount_below(folder)
        shutil.rmtree(folder)


def saved_firewall() -> str:
    """The packet filters, which dockerd changes.

    Raises:
        NoDaemonError: They are not to be read, as without NET_ADMIN, and dockerd would not start.
    """
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True)
    if saved.returncode != 0:
        raise NoDaemonError(f"dockerd needs packet filters: {saved.stderr[-500:].strip()}")
    return saved.stdout


def unmount_below(folder: Path) -> None:
    """What dockerd leaves mounted, and debootstrap when it is interrupted; the latest first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        run("umount", mount)


def is_up(docker: Docker) -> bool:
    return subprocess.run(["docker", "info"], env=docker.environment, capture_output=True).returncode == 0


def make_stand_ins(docker: Docker, folder: Path) -> None:
    """Debian with Python, and what Dockerfile and compose.yaml name."""
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", f"{folder}/debian")
    packed = subprocess.Popen(["tar", "-C", f"{folder}/debian", "-c", "."], stdout=subprocess.PIPE)
    docker("import", "-", "hguard-test-debian", stdin=packed.stdout)
    assert packed.wait() == 0
    shutil.rmtree(folder / "debian")
    context = folder / "context"
    context.mkdir()
    shutil.copy(CERTIFICATES, context / "ca-certificates.crt")
    (context / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    build(docker, context, found[1], PYTHON)
    for name, binary in (("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")):
        tag = re.search(rf"image: (prom/{name}:\S+)", (ROOT / "deploy" / "compose.yaml").read_text())
        assert tag
        build(docker, context, tag[1], MONITORING.format(binary=binary))


def build(docker: Docker, context: Path, tag: str, dockerfile: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    docker("build", "--network=host", "--tag", tag, str(context))


def wait_for(condition, seconds: float, what: str) -> None:
    """Until it is true; the limit only ends a test that would never end."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.5)


def pip_setting(name: str) -> str:
    """What this machine's pip is configured with, such as `index-url`; empty where it is not."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    found = re.search(rf"^(?::env:|global)\.{name}='(.*)'$", listed, re.MULTILINE)
    return found[1] if found else ""
