"""A real process and clients that mean no good: what they send has no end, or must be found nowhere afterwards.

That is a planted prompt, the model's answer and the API keys: in no log, metric, error or listing.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.keys import show, write_keys

pytestmark = pytest.mark.slow

SECRET = "hunter2-correct-horse"
REPLY = "Paris"
JSON = {"content-type": "application/json"}
PLACES = ("/metrics", "/probes", "/readyz", "/version", "/openapi.json", "/")


@dataclass
class Service:
    client: httpx.Client
    log: Path
    keys: Path
    pid: int

    def memory_bytes(self):
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A process that logs all that it can."""
    tmp_path = tmp_path_factory.mktemp("service")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keys = write_keys(tmp_path, every=("infer", "admin", "metrics"))
    environment = {
        **os.environ,
        "HGUARD_ENGINE": "fake",
        "HGUARD_PORT": str(port),
        "HGUARD_LOG_LEVEL": "debug",
        "HGUARD_API_KEYS_FILE": str(keys),
        "PYTHONPATH": os.getcwd(),
    }
    log = tmp_path / "log"
    with log.open("wb") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for(lambda: is_ready(client))
            yield Service(client, log, keys, running.pid)
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()


def is_ready(client):
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


TALK = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": f"It is {SECRET}."}]
GOOD = [
    ("/generate", {"prompt": SECRET}),
    ("/generate", {"messages": [{"role": "user", "content": SECRET}], "guard": {"return_tokens": True}}),
    ("/generate", {"prompt": SECRET, "stream": True}),
    ("/generate", {"prompt": SECRET, "stream": True, "stream_mode": "hold", "guard": {"policy": "block"}}),
    ("/score", {"prompt": SECRET, "response": f"It is {SECRET}."}),
    ("/v1/chat/completions", {"model": "fake", "messages": TALK[:1], "max_tokens": 8}),
    ("/v1/chat/completions", {"model": "fake", "messages": TALK[:1], "max_tokens": 8, "stream": True}),
    ("/v1/completions", {"model": "fake", "prompt": SECRET, "max_tokens": 8, "logprobs": 0}),
    ("/v1/checks", {"messages": TALK}),
    ("/beta/litellm_basic_guardrail_api", {"input_type": "request", "litellm_call_id": "c", "texts": [SECRET]}),
    ("/beta/litellm_basic_guardrail_api", {"input_type": "response", "litellm_call_id": "c", "texts": [SECRET]}),
]
BAD = [
    (422, {"json": {"prompt": SECRET, "sampling": {"n": SECRET}}}),
    (422, {"json": {"prompt": SECRET, SECRET: 1}}),
    (422, {"json": {"prompt": SECRET * 300}}),
    (422, {"json": {"messages": [{"role": SECRET, "content": SECRET}]}}),
    (422, {"json": {"prompt": SECRET, "guard": {"threshold": SECRET}}}),
    (404, {"json": {"prompt": SECRET, "model": SECRET}}),
    (404, {"json": {"prompt": SECRET, "stream": True, "guard": {"probe": SECRET}}}),
    (400, {"content": f'{{"prompt": "{SECRET}', "headers": JSON}),
    (400, {"content": f'{{"{SECRET}": 1, "{SECRET}": 2}}', "headers": JSON}),
    (413, {"content": SECRET * 60_000, "headers": JSON}),
    (415, {"content": SECRET}),
]


SENT_BYTES = 64 << 20
"""Of requests that never end."""


def send_without_end(client, head, more):
    """Bytes sent until the service had enough, and what it answered."""
    sent = 0
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
        connection.sendall(head)
        try:
            while sent < SENT_BYTES:
                connection.sendall(more)
                sent += len(more)
        except OSError:  # closed at the other end
            pass
        try:
            return sent, connection.recv(4096)
        except ConnectionResetError:
            return sent, b""


POST = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
KEY = b"Authorization: Bearer key of every\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"


@pytest.mark.parametrize(
    ("head", "more", "status"),
    [
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 0x10000, b"400", id="one header"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"b: c\r\n" * 10_000, b"400", id="many headers"),
        pytest.param(b"GET /", b"a" * 0x10000, b"400", id="path"),
        pytest.param(POST + b"\r\n", CHUNK, b"401", id="body without a key"),
        pytest.param(POST + KEY + b"\r\n", CHUNK, b"413", id="body with a key"),
    ],
)
def test_hazard_a_request_has_no_end(service, head, more, status):
    before = service.memory_bytes()
    sent, answer = send_without_end(service.client, head, more)
    assert answer.startswith(b"HTTP/1.1 " + status) or not answer
    assert sent < SENT_BYTES or answer, "all was taken, and nothing said"
    assert service.memory_bytes() - before < SENT_BYTES / 4
    assert service.client.get("/livez").status_code == 200


def test_hazard_a_secret_is_found_somewhere(service):
    client, keys = service.client, service.keys
    answers, every = [], show("every")
    for path, body in GOOD:
        answer = client.post(path, json=body, headers=every)
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.text
    for status, request in BAD:
        headers = {**every, **request.pop("headers", {}), "x-request-id": f"{SECRET} and more"}
        answers.append(client.post("/generate", headers=headers, **request))
        assert answers[-1].status_code == status, answers[-1].text
    for headers, status in (
        ({"authorization": f"Bearer {SECRET}"}, 401),
        ({"authorization": f"Basic {SECRET}"}, 401),
        ({"x-api-key": SECRET}, 401),
        (show("metrics"), 403),
    ):
        answers.append(client.post("/generate", json={"prompt": SECRET}, headers=headers))
        assert answers[-1].status_code == status
    with client.stream("POST", "/generate", json={"prompt": SECRET, "stream": True}, headers=every):
        pass  # leaves
    keys.write_text(f'[[keys]]\nname = "a"\nsha256 = "{SECRET}"\nscopes = ["infer"]')
    wait_for(lambda: 'api_key_loads_total{result="failed"} 1.0' in client.get("/metrics", headers=every).text)

    answers += [client.get(place, headers=every) for place in PLACES]
    shown = [answer.text + str(answer.headers) for answer in answers]
    assert "/generate" in shown[-len(PLACES)], "the metrics have counted"
    assert "keys.0.sha256" in service.log.read_text(), "the log has the refused file"
    for text in [*shown, service.log.read_text()]:
        assert SECRET not in text
        assert REPLY not in text
        assert "key of" not in text
