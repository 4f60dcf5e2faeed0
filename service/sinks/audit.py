"""Audit log: prompt, response and judgement of every request to the model, as JSON lines. Off unless asked for.

The one place where texts are kept, what was withheld included: an audit has to show what a guard kept back. Written by
a thread behind a bounded queue, so that no request waits for a disk. What cannot be written is counted and logged, and
the request goes on.
"""

import json
import logging
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from service.choices.report import report_spans
from service.observe.record import AnsweredChoice, RequestRecord
from service.schemas.generate import GenerateRequest
from service.schemas.score import ScoreRequest
from service.sinks.rotating import RotatingFile

QUEUE_SIZE = 256
"""Requests that may wait to be written; each may hold a body of 1 MiB."""
CLOSE_SECONDS = 5.0
"""What is not written by then is lost at shutdown."""

logger = logging.getLogger("hguard")


class AuditLog:
    """Writes what the model was asked, what it said and what the guard thought of it."""

    def __init__(self, path: Path, *, max_bytes: int, files: int, dropped: Counter) -> None:
        """Open the file and start the writer.

        Args:
            path: Of the newest file; older ones are `path.1`, `path.2`, ...
            max_bytes: Size from which another file is begun.
            files: Files that are kept, the newest included.
            dropped: Counts requests that are missing in the log.

        Raises:
            OSError: The file cannot be written.
        """
        self._file = RotatingFile(path, max_bytes=max_bytes, files=files)
        self._dropped = dropped
        self._queue: queue.Queue[RequestRecord | None] = queue.Queue(QUEUE_SIZE)
        self._is_losing = False
        """A request went missing after the last line that was written."""
        self._thread = threading.Thread(target=self._run, name="hguard-audit", daemon=True)
        self._thread.start()

    def write(self, record: RequestRecord) -> None:
        """Queue a request; one that never came as far as the model has nothing to be audited."""
        if record.asked is None:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._drop("the disk is too slow, the queue is full", None)

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            logger.error("audit log: %d requests were not written before the end", self._queue.qsize())
            return
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.error("audit log: requests were not written before the end")

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                line = json.dumps(describe(record), ensure_ascii=False, allow_nan=False)
                self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            except Exception as error:  # noqa: BLE001 - logged there; the writer must outlive any one record
                self._drop("it cannot be written", error)
            else:
                if self._is_losing:
                    self._is_losing = False
                    logger.warning("audit log: is written again; hguard_audit_dropped_total says how many are missing")
        self._file.close()

    def _drop(self, why: str, error: Exception | None) -> None:
        self._dropped.inc()
        if not self._is_losing:  # once; the counter tells the rest
            self._is_losing = True
            logger.error("audit log: a request is missing: %s", why, exc_info=error)


def describe(record: RequestRecord) -> dict[str, Any]:
    """The line of one request.

    `choices` is null where no whole answer was served: the request failed, or its client left. What had been generated
    by then, of which a stream may have shown all, is in `unfinished`.
    """
    asked, answered = record.asked, record.answered
    assert asked is not None
    body = asked.body
    probe = asked.served.artifact
    return {
        "time": datetime.fromtimestamp(record.started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": answered.response_id if answered else None,
        "request_id": record.request_id,
        "caller": record.caller,
        "route": record.route,
        "status": record.status,
        "error": record.error,
        "model": asked.served.engine.model_name,
        "probe": {"name": probe.probe.name, "version": probe.probe.version, "sha256": probe.sha256},
        "policy": asked.guard.policy,
        "threshold": asked.guard.threshold,
        "prompt": body.prompt,
        "messages": [message.model_dump() for message in body.messages] if body.messages is not None else None,
        "raw": body.raw,
        "sampling": body.sampling.model_dump() if isinstance(body, GenerateRequest) else None,
        "response": body.response if isinstance(body, ScoreRequest) else None,
        "choices": [_describe_choice(choice) for choice in answered.choices] if answered else None,
        "unfinished": None if answered else [transcript.response().text for transcript in record.transcripts],
    }


def _describe_choice(choice: AnsweredChoice) -> dict[str, Any]:
    response, judgement, guard = choice.response, choice.judgement, choice.guard
    spans = report_spans(response, judgement, is_withheld=False)
    return {
        "index": choice.index,
        "text": response.text,
        "finish_reason": choice.finish_reason,
        "status": judgement.status,
        "failure": judgement.failure,
        "risk": judgement.risk,
        "action": guard.action if guard else "none",
        "alpha": guard.alpha if guard else None,
        "spans": [span.model_dump() for span in spans],
    }
