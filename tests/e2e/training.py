"""Runs of `offline/train_probe.py` with the real default model: their questions, their ends, and what they leave.

The questions are of two kinds that the default model often knows, so that 140 of them give enough right answers to fit.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offline import train_probe
from offline.questions.madeup import MADEUP_EACH, make_madeup_questions
from offline.questions.world import make_world_questions
from probes.models import DEFAULT_MODEL

ROOT = Path(train_probe.__file__).parents[1]


LIMIT = 140


FEW_ROWS = 10  # that a stage has finished when it is killed


TEXT_STAGES = ("questions", "greedy", "samples", "verdicts", "labels", "spans")


DOMAIN_STAGES = tuple(f"domain-{stage}" for stage in ("questions", "greedy", "verdicts", "labels", "spans"))


STAGES = (
    *TEXT_STAGES,
    *DOMAIN_STAGES,
    "features",
    "selection",
    "selection-question",
    "fit",
    "calibrate",
    "evaluate",
    "artifact",
)


def write_questions(path, questions):
    rows = [
        {"id": q.question_id.partition("/")[2], "question": q.question, "answers": q.answers, "relation": q.group}
        for q in questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def arguments_of(folder):
    known = [q for q in make_world_questions("world") if q.group in ("capital", "symbol")]
    made_up = list(make_madeup_questions("madeup", 0))[:: 2 * MADEUP_EACH]
    files = [write_questions(folder / "world.jsonl", known), write_questions(folder / "madeup.jsonl", made_up)]
    other = [q for q in make_world_questions("currencies") if q.group == "currency"]
    domain = write_questions(folder / "currencies.jsonl", [*other, *made_up[:2]])
    wanted = {"model": DEFAULT_MODEL, "limit": LIMIT, "samples": 2, "agreement": 0.5, "max-tokens": 12}
    wanted |= {"unfiltered": 60, "batch-rows": 32, "device": "cpu", "out": folder / "run"}
    wanted |= {"domains": domain, "domain-rows": 12}
    return ["--questions", *files, *(str(part) for name, value in wanted.items() for part in (f"--{name}", value))]


def start(arguments, log, **environment):
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "offline/train_probe.py", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run(arguments, log, **environment):
    """Exit status and output of a run that is left alone."""
    running = start(arguments, log, **environment)
    try:
        status = running.wait(1800)
    finally:
        running.kill()
    return status, read_log(log)


def kill_during(stage, out, arguments, log):
    """SIGKILL a run when a stage has finished a few rows; returns the whole lines that it leaves, and its output."""
    path = out / f"{stage}.jsonl"
    running = start(arguments, log)
    try:
        deadline = time.monotonic() + 900
        while not path.exists() or path.read_bytes().count(b"\n") < FEW_ROWS:
            assert running.poll() is None, read_log(log)
            assert time.monotonic() < deadline, read_log(log)
            time.sleep(0.002)
    finally:
        running.kill()
    assert running.wait(60) == -signal.SIGKILL
    assert not (out / f"{stage}.manifest.json").exists()  # or it was not killed in the middle
    left = path.read_bytes()
    return left[: left.rfind(b"\n") + 1], read_log(log)


def read_log(log):
    """A run's output, every state of a progress bar on a line of its own."""
    return log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")


def read_rows(data):
    return [json.loads(line, parse_constant=pytest.fail) for line in data.decode().split("\n")[:-1]]


def keys_of(rows):
    return [(row["question_id"], row["sample"]) for row in rows]


def snapshot(out):
    """Bytes and time of every file."""
    return {
        str(path.relative_to(out)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
