"""Log lines: one format for all, the id of the request, and nothing of its text, whatever was raised."""

import asyncio
import gc
import io
import json
import logging

import httpx
import pytest

from service.engines.base import EngineError
from service.observe.logs import JsonFormatter, TextFormatter, configure_logs, describe_exception
from tests.serving import QUESTION, make_parts, read_events, serve_on_port

SECRET = "hunter2"


@pytest.fixture
def configured():
    """`configured(level, format)` -> what is written from then on; the loggers are as before afterwards."""
    root, names = logging.getLogger(), ("hguard", "service", "probes", "transformers")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    written = io.StringIO()

    def configure(level="info", log_format="json"):
        configure_logs(level, log_format)
        (handler,) = root.handlers
        handler.setStream(written)
        return written

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as found:  # noqa: BLE001 - it is what is wanted
        return found


def entry(message="hello", error=None, **extra):
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("hguard", logging.ERROR, __file__, 1, message, (), info)
    record.__dict__.update(extra)
    return record


def test_an_exception_is_one_line_of_json_with_its_stack_in_a_field():
    line = JsonFormatter().format(
        entry("two\nlines", raised(ValueError("a\nb"), raised(KeyError("c"))), fields={"n": 1})
    )
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["n"]) == ("error", "hguard", 1)
    assert found["exception"] == "ValueError: a b"
    assert found["stack"].splitlines()[-1] == "ValueError: a b"
    assert found["stack"].index("KeyError: 'c'") < found["stack"].index("ValueError")
    assert 'File "' in found["stack"]


def test_the_text_format_puts_fields_behind_and_the_stack_below():
    first, *rest = TextFormatter().format(entry("hello", raised(ValueError("x")), fields={"n": 1})).splitlines()
    assert first.endswith("ERROR hguard: hello n=1")
    assert rest[-1] == "ValueError: x"


def test_messages_of_others_are_left_out_where_they_may_quote_a_request():
    group = raised(ExceptionGroup(SECRET, [raised(ValueError(SECRET), raised(KeyError(SECRET)))]))
    lines = describe_exception(group, hides_messages=True)
    assert not any(SECRET in line for line in lines)
    assert [line.split(" ")[0] for line in lines if "left out" in line] == ["KeyError", "ValueError", "ExceptionGroup"]
    assert describe_exception(EngineError("ours"), hides_messages=True) == ["service.engines.base.EngineError: ours"]


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_a_task_that_nobody_waited_for_tells_no_text(configured, log_format):
    written = configured("debug", log_format)

    async def work():
        raise RuntimeError(SECRET)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    del task
    gc.collect()
    assert "Task exception was never retrieved" in written.getvalue()
    assert "RuntimeError (message left out" in written.getvalue()
    assert SECRET not in written.getvalue()


async def ask(parts, **body):
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            return await client.post(
                "/generate", json={"prompt": f"{QUESTION} {SECRET}", **body}, headers={"x-request-id": "mine"}
            )


def fails(*_, **__):
    raise RuntimeError(f"cannot work on {SECRET}")


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["choices.judging.judge", "choices.choice.decide", "routes.run.plan_choices"])
async def test_a_failure_is_logged_once_with_the_request_id_and_without_the_text(
    configured, monkeypatch, log_format, stream, place
):
    written = configured("debug", log_format)
    monkeypatch.setattr(f"service.{place}", fails)
    answer = await ask(make_parts(), stream=stream)
    assert SECRET not in answer.text
    text = written.getvalue()
    assert SECRET not in text
    assert "Paris" not in text
    assert "The answer" not in text
    assert text.count("RuntimeError (message left out") == (2 if log_format == "json" else 1)  # exception and stack
    if log_format == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        (failed,) = [line for line in lines if "exception" in line]
        assert (failed["request_id"], failed["level"]) == ("mine", "error")
        (access,) = [line for line in lines if line["logger"] == "hguard.access"]
        status, code = (503, "guard_unavailable") if place == "choices.judging.judge" else (500, "internal_error")
        assert (access["status"], access["error"], access["level"]) == (status, code, "warning")
    if stream and place != "routes.run.plan_choices":
        assert read_events(answer.text)[-1][0] == "error"


async def test_what_libraries_would_log_of_a_stream_at_debug_level_is_not_written(configured):
    written = configured("debug", "text")
    assert logging.getLogger("sse_starlette.sse").getEffectiveLevel() == logging.INFO
    assert logging.getLogger("hguard").isEnabledFor(logging.DEBUG)
    answer = await ask(make_parts(), stream=True)
    assert "Paris" in "".join(data["text"] for name, _, data in read_events(answer.text) if name == "token")
    assert "hguard.access: POST /generate 200" in written.getvalue()
    assert "chunk" not in written.getvalue()


async def test_polling_is_quiet_and_everything_else_is_not(configured):
    written = configured("info", "json")
    with serve_on_port(make_parts()) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            for path in ("/livez", "/readyz", "/metrics", "/version", f"/{SECRET}"):
                await client.get(path)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["route"] for line in lines if line["logger"] == "hguard.access"] == ["/version", "other"]


async def test_a_sink_that_fails_is_logged_and_fails_no_request(configured, monkeypatch):
    written = configured("info", "json")
    monkeypatch.setattr("service.sinks.access_log.describe", fails)
    assert (await ask(make_parts())).status_code == 200
    assert "a request is missing in AccessLog" in written.getvalue()
