"""A PostgreSQL server of one's own, with a password, in a folder that goes afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "tr0ub4dor"


class Postgres:
    """Can be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path, port: int, user: str | None) -> None:
        self.binaries, self.folder, self.port, self.user = binaries, folder, port, user
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://hguard:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k", str(self.folder)]
        self.running = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        import psycopg

        for _ in range(300):
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        """Fast shutdown: sessions are ended."""
        if self.running is not None:
            self.running.send_signal(2)
            self.running.wait(30)
            self.running = None


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Skips where there is no server to run."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra `postgres`)")
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    if found is None:
        pytest.skip("no PostgreSQL server is installed (initdb is neither on PATH nor under /usr/lib/postgresql)")
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="hguard-pg-"))
    binaries = Path(found).resolve().parent
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password"):
            if user is not None:
                shutil.chown(path, user)
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                "data",
                "-U",
                "hguard",
                "--auth=scram-sha-256",
                "--pwfile",
                "password",
                "-EUTF8",
            ],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        server = Postgres(binaries, folder, port, user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
