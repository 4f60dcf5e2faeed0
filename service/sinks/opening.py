"""Sinks: where the records of requests go by these settings."""

from service.loading import StartupError
from service.observe.metrics import Metrics
from service.observe.record import Sink
from service.settings import Settings
from service.sinks.access_log import AccessLog
from service.sinks.audit import AuditLog
from service.sinks.tracing import TracingError, open_tracing

_MIB = 1024 * 1024


def open_sinks(settings: Settings, metrics: Metrics) -> list[Sink]:
    """The log, the audit log and the spans, each where it is wanted.

    Raises:
        StartupError: One of them cannot be had; one line.
    """
    sinks: list[Sink] = [AccessLog()]
    if settings.otel:
        try:
            sinks.append(open_tracing())
        except TracingError as error:
            raise StartupError(str(error)) from None
    if settings.audit_log is not None:
        try:
            sinks.append(
                AuditLog(
                    settings.audit_log,
                    max_bytes=int(settings.audit_max_mb * _MIB),
                    files=settings.audit_files,
                    dropped=metrics.audit_dropped,
                )
            )
        except OSError as error:
            reason = f"HGUARD_AUDIT_LOG={settings.audit_log}: {error.strerror}"
            raise StartupError(f"{reason}: name a file in a folder that this user may write") from None
    return sinks
