"""Logs: every line of the process, ours and the libraries', in one format and with the id of its request.

No line holds text of a request. An exception's message may quote what it failed on, so while a request is served only
the messages of our own exceptions are written; of others the type and the stack remain.
"""

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

from service.observe.record import current_record

LogFormat = Literal["text", "json"]
_OURS = ("service.", "probes.")
_OUR_LOGGERS = ("hguard", "service", "probes")


class TextFormatter(logging.Formatter):
    """For eyes: `time level logger: message key=value ...`, a stack below it."""

    def format(self, record: logging.LogRecord) -> str:
        """One entry."""
        fields = {**_fields(record), **({"request_id": found} if (found := _request_id()) else {})}
        pairs = "".join(f" {name}={value}" for name, value in fields.items())
        line = f"{_time(record)} {record.levelname} {record.name}: {_message(record)}{pairs}"
        return "\n".join([line, *_stack(record)])


class JsonFormatter(logging.Formatter):
    """For machines: one object a line, whatever happened."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if (request_id := _request_id()) is not None:
            entry["request_id"] = request_id
        entry |= _fields(record)
        if stack := _stack(record):
            entry["exception"] = stack[-1]
            entry["stack"] = "\n".join(stack)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Send everything that this process logs or warns of to standard error, in one format.

    Args:
        level: Of our own loggers. Libraries log from `info` on: at `debug` some of them log what they send, such as the
            chunks of a stream, and that is the text of responses.
        log_format: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_is_news)
    logging.basicConfig(level=max(logging.INFO, logging.getLevelName(level.upper())), handlers=[handler], force=True)
    for name in _OUR_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    if log_format == "json":
        _adopt_transformers()


def _adopt_transformers() -> None:
    """The library brings a handler of its own, and progress bars that no reader of JSON lines expects."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging as library

    library.disable_default_handler()
    library.enable_propagation()
    library.disable_progress_bar()


def _is_news(record: logging.LogRecord) -> bool:
    """The framework raises a defect again after it was answered and logged, and the server logs it a second time."""
    found = current_record()
    return not (record.name == "uvicorn.error" and record.exc_info and found is not None and found.error is not None)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage().strip()
    # Below its first line asyncio shows the task that failed, and with it the exception's message.
    return message.split("\n")[0] if record.name == "asyncio" else message


def _request_id() -> str | None:
    found = current_record()
    return None if found is None else found.request_id


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _stack(record: logging.LogRecord) -> list[str]:
    if record.exc_info and record.exc_info[1] is not None:
        # asyncio reports a task that nobody waited for when it is collected, outside of the task's context.
        hides_messages = current_record() is not None or record.name == "asyncio"
        return describe_exception(record.exc_info[1], hides_messages=hides_messages)
    return []


def describe_exception(error: BaseException, *, hides_messages: bool) -> list[str]:
    """Stack and type of an exception after those of what it came from, a line each.

    Args:
        error: What was raised.
        hides_messages: Leave out the messages of exceptions that are not ours.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = describe_exception(cause, hides_messages=hides_messages) if cause is not None else []
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        lines += describe_exception(part, hides_messages=hides_messages)
    lines += [line for frame in traceback.format_tb(error.__traceback__) for line in frame.rstrip().split("\n")]
    kind = type(error)
    is_ours = kind.__module__.startswith(_OURS)
    message = f": {error}" if is_ours or not hides_messages else " (message left out: it may quote the request)"
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return [*lines, name + message.replace("\n", " ")]
