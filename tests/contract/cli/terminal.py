"""`hguard` as a process of its own, with pipes or at a terminal."""

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.cli.main import main

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "service.cli"]


def environment_of(**variables: Any) -> dict[str, str]:
    """Ours without settings and without what decides about colours."""
    apart = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TERM")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HGUARD_") and key not in apart}
    if cache := os.environ.get("HGUARD_CACHE"):
        kept["HGUARD_CACHE"] = cache
    path = os.pathsep.join(filter(None, [str(variables.pop("first_on_path", "")), str(ROOT)]))
    return {**kept, "PYTHONPATH": path, **{key: str(value) for key, value in variables.items()}}


def run(*arguments: Any, cwd: Any, stdin: str = "", **variables: Any) -> "subprocess.CompletedProcess[str]":
    """With pipes."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment_of(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_at_terminal(*arguments: Any, cwd: Any, **variables: Any) -> str:
    """What a terminal of 256 colours is sent, standard output and error together."""
    ours, theirs = pty.openpty()
    environment = environment_of(**{"TERM": "xterm-256color", **variables})
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    sent = b""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(ours, 65536):
            sent += chunk
    os.close(ours)
    process.wait(60)
    return sent.decode()


def ask(capsys, *arguments):
    status = main(["ask", *arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def fails(capsys, *arguments):
    """The one line of an error."""
    status, out, err = ask(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("hguard ask: ")
    assert err.count("\n") == 1
    return err
