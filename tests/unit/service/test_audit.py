"""The audit log: bounded files that only the owner reads, and no request that waits for them or is lost in silence."""

import json
import logging
import os
import stat
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from service.observe.record import RequestRecord
from service.sinks.audit import QUEUE_SIZE, AuditLog
from service.sinks.rotating import RotatingFile
from tests.serving import QUESTION, make_parts, serve_on_port, wait_until


def make_counter():
    return Counter("dropped", "x", registry=CollectorRegistry())


def count(counter):
    return counter.collect()[0].samples[0].value


def asked(request_id="r"):
    return RequestRecord(request_id, "POST", asked=object())


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """A log whose lines are the request ids, and its counter."""
    monkeypatch.setattr("service.sinks.audit.describe", lambda record: {"request_id": record.request_id})
    dropped = make_counter()
    log = AuditLog(tmp_path / "audit.jsonl", max_bytes=1 << 20, files=2, dropped=dropped)
    yield log, dropped, tmp_path / "audit.jsonl"
    log.close()


def ids(path):
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_files_rotate_by_size_and_the_oldest_go(tmp_path):
    path = tmp_path / "audit.jsonl"
    file = RotatingFile(path, max_bytes=25, files=3)
    for at in range(9):
        file.write(b"line %d ...\n" % at)  # 11 bytes
    file.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    kept = "".join((tmp_path / name).read_text() for name in ("audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"))
    assert [line.split()[1] for line in kept.splitlines()] == ["4", "5", "6", "7", "8"]
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in tmp_path.iterdir())


def test_one_file_begins_again(tmp_path):
    file = RotatingFile(tmp_path / "a", max_bytes=10, files=1)
    for at in range(3):
        file.write(b"line %d.\n" % at)
    assert (tmp_path / "a").read_bytes() == b"line 2.\n"
    file.close()


def test_a_restart_goes_on_and_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before\n")
    path.chmod(0o644)
    file = RotatingFile(path, max_bytes=1000, files=2)
    file.write(b"after\n")
    file.close()
    assert path.read_bytes() == b"before\nafter\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_fills_up_leaves_no_half_line(tmp_path, monkeypatch):
    file = RotatingFile(tmp_path / "a", max_bytes=1000, files=2)
    file.write(b"one\n")
    write = os.write
    monkeypatch.setattr("service.sinks.rotating.os.write", lambda to, line: write(to, line[:2]))
    with pytest.raises(OSError, match="full"):
        file.write(b"two\n")
    monkeypatch.undo()
    file.write(b"three\n")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"one\nthree\n"


def test_a_rotation_that_fails_loses_no_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    file = RotatingFile(path, max_bytes=5, files=4)
    for at in range(3):
        file.write(b"%d...\n" % at)

    def refuse():
        raise OSError("no room for another file")

    monkeypatch.setattr(file, "_open", refuse)
    for _ in range(5):
        with pytest.raises(OSError, match="no room"):
            file.write(b"lost.\n")
    monkeypatch.undo()
    file.write(b"3...\n")
    file.close()
    assert [(tmp_path / name).read_bytes()[:1] for name in ("a.3", "a.2", "a.1", "a")] == [b"0", b"1", b"2", b"3"]


def test_a_full_queue_is_counted_logged_once_and_stalls_nobody(audit, monkeypatch, caplog):
    log, dropped, path = audit
    is_free = threading.Event()
    write = log._file.write
    monkeypatch.setattr(log._file, "write", lambda line: (is_free.wait(10), write(line)))
    with caplog.at_level(logging.WARNING, "hguard"):
        for at in range(QUEUE_SIZE + 20):
            log.write(asked(str(at)))
        lost = count(dropped)
        assert lost in (19, 20)  # the writer has one in its hands, or not yet
        is_free.set()
        log.close()
        assert len(ids(path)) == QUEUE_SIZE + 20 - lost
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "WARNING"]
    assert "full" in caplog.messages[0]
    assert "written again" in caplog.messages[1]


async def test_a_disk_with_room_again_is_written_again(audit, monkeypatch, caplog):
    log, dropped, path = audit

    def is_full(_line):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(log._file, "write", is_full)
        for _ in range(3):
            log.write(asked("lost"))
        await wait_until(lambda: count(dropped) == 3)
    log.write(asked("kept"))
    log.close()
    assert ids(path) == ["kept"]
    assert [record.levelname for record in caplog.records if "audit" in record.message] == ["ERROR", "WARNING"]


def test_what_waits_is_written_at_the_end(audit):
    log, dropped, path = audit
    for at in range(QUEUE_SIZE):
        log.write(asked(str(at)))
    log.close()
    assert (len(ids(path)), count(dropped)) == (QUEUE_SIZE, 0)


def test_a_request_that_never_reached_the_model_is_not_kept(audit):
    log, _, path = audit
    log.write(RequestRecord("r", "POST"))
    log.close()
    assert path.read_text() == ""


async def test_a_request_that_failed_is_kept_with_its_prompt_and_without_an_answer(tmp_path):
    path = tmp_path / "audit.jsonl"
    parts = make_parts()
    with serve_on_port(parts, audit_log=path) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            parts.engine.fault = "nan_scores"
            await client.post("/generate", json={"prompt": QUESTION, "stream": True})
            await client.post("/generate", json={"prompt": QUESTION, "guard": {"on_error": "fail_open"}})
            await client.post("/generate", json={"prompt": QUESTION, "sampling": {"n": 0}})
    closed, opened = [json.loads(line) for line in path.read_text().splitlines()]
    assert (closed["prompt"], closed["status"], closed["error"]) == (QUESTION, 503, "guard_unavailable")
    assert (closed["id"], closed["choices"]) == (None, None)
    (choice,) = opened["choices"]
    assert (choice["text"], choice["status"], choice["failure"]) == ("The answer is Paris.", "failed", "not_finite")
    assert choice["risk"] is None


async def test_what_a_stream_had_shown_when_it_was_cut_is_kept(tmp_path):
    path = tmp_path / "audit.jsonl"
    parts = make_parts(fault_at=12)
    asked = {"prompt": QUESTION, "stream": True, "sampling": {"n": 2}}
    with serve_on_port(parts, audit_log=path) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            parts.engine.fault = "hang"
            async with client.stream("POST", "/generate", json=asked) as answer:
                lines = answer.aiter_lines()
                while await anext(lines) != "id: 10":
                    pass
            await wait_until(lambda: path.read_text() != "")
            parts.engine.fault = "crash"
            await client.post("/score", json={"prompt": QUESTION, "response": "Paris"})
    left, failed = [json.loads(line) for line in path.read_text().splitlines()]
    assert (left["status"], left["error"], left["choices"]) == (499, "client_left", None)
    assert left["unfinished"] == ["The answer is Paris."[:12]] * 2
    assert (failed["status"], failed["response"], failed["unfinished"]) == (503, "Paris", [])


async def test_no_file_is_made_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve_on_port(make_parts()) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            await client.post("/generate", json={"prompt": QUESTION})
    assert list(tmp_path.iterdir()) == []
