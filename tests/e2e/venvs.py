"""Virtual environments of their own, for programs whose pins do not fit beside ours."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from probes.models import cache_folder

INSTALL_SECONDS = 900


def venv_with(name: str, *wanted: str) -> Path:
    """The folder of an environment that has these packages; made once, in the user's cache, or the test is skipped."""
    home = cache_folder() / "venvs" / name
    mark = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(home, ignore_errors=True)
            try:
                for command in (
                    [sys.executable, "-m", "venv", home],
                    [home / "bin" / "pip", "install", "--quiet", *wanted],
                ):
                    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            except (subprocess.SubprocessError, OSError) as error:
                said = str(getattr(error, "stderr", "") or error).strip().splitlines()
                pytest.skip(f"{', '.join(wanted)} cannot be installed: {said[-1] if said else error}")
            mark.touch()
    return home
