"""Tracing: an OpenTelemetry span for each request, with the attributes of the GenAI semantic conventions and no text.

Source of the names: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans (status: development).
"""

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from service.observe.record import Answered, Asked, RequestRecord
from service.probe_roles.served import probe_label
from service.schemas.generate import GenerateRequest
from service.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE_NAME = "hguard"
CLOSE_SECONDS = 5.0
"""What is not sent by then is lost at shutdown."""
_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"

logger = logging.getLogger("hguard")


class TracingError(RuntimeError):
    """Spans cannot be sent; one line that names the fix."""


class Tracing:
    """Makes a span of each request that was sent to do something; health checks have none."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("hguard", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def write(self, record: RequestRecord) -> None:
        """Make the span of a request that has ended."""
        from opentelemetry.trace import SpanKind, StatusCode

        if record.method == "GET":
            return
        began = int(record.started * 1e9)
        span = self._tracer.start_span(
            span_name(record),
            context=self._propagator.extract({"traceparent": record.traceparent}),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes=describe(record),
        )
        if record.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(began + int(record.seconds * 1e9))

    def close(self) -> None:
        """Send what waits, for a few seconds at most: the SDK would wait half a minute for a collector that is gone."""
        sending = threading.Thread(target=self._provider.shutdown, name="hguard-spans", daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)
        if sending.is_alive():
            logger.error("spans were not sent before the end: the collector does not answer")


def open_tracing() -> Tracing:
    """Tracing as the standard OTEL_* variables say, over OTLP/HTTP.

    Raises:
        TracingError: OpenTelemetry is not installed, or another protocol is asked for.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise TracingError(
            "HGUARD_OTEL=1 needs OpenTelemetry: pip install 'hguard[otel]', or make setup EXTRAS=otel; or unset it"
        ) from None
    protocol = next((os.environ[name] for name in _PROTOCOL if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise TracingError("HGUARD_OTEL=1 sends OTLP as http/protobuf only: unset OTEL_EXPORTER_OTLP_PROTOCOL")
    resource = Resource.create({"service.version": VERSION})
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def span_name(record: RequestRecord) -> str:
    """Bounded: an operation and the served model, or method and route."""
    if record.asked is None:
        return f"{record.method} {record.route}"
    return f"{_operation(record.asked)} {record.asked.served.engine.model_name}"


def describe(record: RequestRecord) -> dict[str, Any]:
    """The attributes; those without a value are left out."""
    found: dict[str, Any] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "error.type": record.error,
        "hguard.request_id": record.request_id,
        "hguard.action": record.action,
    }
    if record.asked is not None:
        found |= _describe_asked(record.asked)
    if record.answered is not None:
        found |= _describe_answered(record.answered)
    return {name: value for name, value in found.items() if value is not None}


def _operation(asked: Asked) -> str:
    if not isinstance(asked.body, GenerateRequest):
        return "evaluate"  # the conventions have no name for judging a given response
    return "chat" if asked.body.messages is not None else "text_completion"


def _describe_asked(asked: Asked) -> dict[str, Any]:
    model = asked.served.engine.model_name
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(asked),
        "gen_ai.provider.name": SERVICE_NAME,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": asked.n_prompt_tokens,
        "hguard.probe": probe_label(asked.served.probe),
        "hguard.policy": asked.guard.policy,
    }
    if isinstance(asked.body, GenerateRequest):
        sampling = asked.body.sampling
        found |= {
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k or None,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.choice.count": sampling.n if sampling.n > 1 else None,
            "gen_ai.request.stream": asked.body.stream,
        }
    return found


def _describe_answered(answered: Answered) -> dict[str, Any]:
    first = answered.choices[0].judgement
    reasons = [choice.finish_reason for choice in answered.choices if choice.finish_reason is not None]
    return {
        "gen_ai.response.id": answered.response_id,
        "gen_ai.response.finish_reasons": reasons or None,
        "gen_ai.usage.output_tokens": answered.n_tokens,
        "hguard.status": first.status,
        "hguard.risk": first.risk,
    }
