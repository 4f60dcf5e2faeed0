"""Spans: names and attributes of the conventions, the caller's trace, no text; asked for in vain it says so."""

import socket
import sys
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.__main__ import main
from service.observe.record import RequestRecord
from service.sinks.tracing import Tracing, TracingError, open_tracing
from tests.serving import QUESTION, make_parts

SECRET = "hunter2"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
async def traced(serve, monkeypatch):
    """A client, its engine and the spans that were made."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("service.sinks.opening.open_tracing", lambda: Tracing(provider))
    parts = make_parts(locator="response")
    return await serve(parts, otel=True), parts.engine, exporter


async def span_of(traced, path="/generate", headers=None, **body):
    client, _, exporter = traced
    exporter.clear()
    await client.post(path, json={"prompt": SECRET, **body}, headers=headers)
    (span,) = exporter.get_finished_spans()
    assert SECRET not in span.to_json()
    assert "Paris" not in span.to_json()
    return span


async def test_a_span_continues_the_callers_trace(traced):
    span = await span_of(traced, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.kind is SpanKind.SERVER
    assert 0 < span.end_time - span.start_time < 60e9
    alone = await span_of(traced, headers={"traceparent": f"garbage {SECRET}"})
    assert alone.parent is None


async def test_choices_streams_and_actions(traced):
    sampling = {"n": 2, "max_tokens": 5, "temperature": 1.0, "top_k": 7}
    guard = {"policy": "flag", "threshold": 0.001}
    found = (await span_of(traced, sampling=sampling, guard=guard, stream=True)).attributes
    expected = {
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.provider.name": "hguard",
        "hguard.policy": "flag",
        "hguard.action": "flagged",
        "hguard.status": "scored",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "gen_ai.request.seed" not in found


async def test_a_given_response_is_evaluated(traced):
    span = await span_of(traced, "/score", response=f"{SECRET} is Paris")
    assert span.name == "evaluate fake"
    assert span.attributes["hguard.risk"] > 0
    assert "gen_ai.response.finish_reasons" not in span.attributes


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_was_not_scored_is_an_error_without_a_risk(traced, stream):
    traced[1].fault = "nan_scores"
    span = await span_of(traced, stream=stream)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "guard_unavailable"
    assert span.attributes["http.response.status_code"] == 503
    assert "hguard.risk" not in span.attributes
    opened = await span_of(traced, stream=stream, guard={"on_error": "fail_open"})
    assert opened.status.status_code is StatusCode.UNSET
    assert opened.attributes["hguard.status"] == "failed"
    assert "hguard.risk" not in opened.attributes


async def test_a_refused_request_has_a_span_and_a_health_check_has_none(traced):
    span = await span_of(traced, model=SECRET)
    assert (span.name, span.attributes["error.type"]) == ("POST /generate", "model_not_found")
    client, _, exporter = traced
    exporter.clear()
    for path in ("/livez", "/metrics", f"/{QUESTION}"):
        await client.get(path)
    assert exporter.get_finished_spans() == ()


def test_a_collector_that_is_gone_holds_up_neither_requests_nor_the_end(monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr("service.sinks.tracing.CLOSE_SECONDS", 0.3)
        tracing = open_tracing()
        began = time.perf_counter()
        for at in range(100):
            tracing.write(RequestRecord(str(at), "POST"))
        assert time.perf_counter() - began < 1
        tracing.close()
        assert time.perf_counter() - began < 3
    assert "spans were not sent before the end" in caplog.text


def test_asked_for_and_not_installed_is_said_at_the_start(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGUARD_OTEL", "1")
    monkeypatch.setenv("HGUARD_ENGINE", "fake")
    monkeypatch.setenv("HGUARD_PORT", "0")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setattr("service.__main__.configure_logs", lambda *_: None)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "HGUARD_OTEL=1 needs OpenTelemetry" in line
    assert "hguard[otel]" in line


def test_another_protocol_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TracingError, match="http/protobuf"):
        open_tracing()


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "hguard"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine"}, "mine"),
    ],
)
def test_the_service_has_a_name(monkeypatch, environment, name):
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    tracing = open_tracing()
    assert tracing._provider.resource.attributes["service.name"] == name
    tracing.close()


def test_an_audit_log_that_cannot_be_written_is_said_at_the_start(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGUARD_AUDIT_LOG", str(tmp_path / "nowhere" / "audit.jsonl"))
    monkeypatch.setenv("HGUARD_ENGINE", "fake")
    monkeypatch.setenv("HGUARD_PORT", "0")
    monkeypatch.setattr("service.__main__.configure_logs", lambda *_: None)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "HGUARD_AUDIT_LOG=" in line
    assert "No such file or directory" in line
