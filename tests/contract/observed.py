"""A service process whose logs, audit log and spans are kept, and a collector for the spans."""

import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Observed:
    """A running service; `stop` gives its exit code, after which `lines` are all that it wrote."""

    address: str
    process: subprocess.Popen
    output: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()


@contextmanager
def observe(folder: Path, **environment: str) -> Iterator[Observed]:
    """`python -m service` with the fake engine; both output streams go to one file."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    output = folder / "output.txt"
    settings = {"HGUARD_ENGINE": "fake", "HGUARD_PORT": str(port), "PYTHONPATH": str(ROOT), **environment}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env={**os.environ, **settings}, cwd=folder, stdout=file, stderr=file
        )
    observed = Observed(f"http://127.0.0.1:{port}", process, output)
    try:
        for _ in range(1200):
            assert process.poll() is None, output.read_text()
            with suppress(httpx.TransportError):
                if httpx.get(f"{observed.address}/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield observed
    finally:
        process.kill()
        process.wait()


class Collector:
    """Takes OTLP over HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.batches: list[Any] = []
        batches = self.batches

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                batches.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, batch in self.batches
            for resource in batch.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def attributes(span: Any) -> dict[str, Any]:
    """Of a span in protobuf."""
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found
