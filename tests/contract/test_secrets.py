"""A planted prompt, the model's answer and the API keys are in no log, metric, error or listing of a real process."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tests.keys import show, write_keys

pytestmark = pytest.mark.slow

SECRET = "hunter2-correct-horse"
REPLY = "Paris"
JSON = {"content-type": "application/json"}
PLACES = ("/metrics", "/probes", "/readyz", "/version", "/openapi.json", "/")


@pytest.fixture
def service(tmp_path):
    """(client, what was logged so far, the file of keys) of a process that logs all that it can."""
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
            yield client, log.read_text, keys
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


GOOD = [
    ("/generate", {"prompt": SECRET}),
    ("/generate", {"messages": [{"role": "user", "content": SECRET}], "guard": {"return_tokens": True}}),
    ("/generate", {"prompt": SECRET, "stream": True}),
    ("/generate", {"prompt": SECRET, "stream": True, "stream_mode": "hold", "guard": {"policy": "block"}}),
    ("/score", {"prompt": SECRET, "response": f"It is {SECRET}."}),
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


def test_hazard_a_secret_is_found_somewhere(service):
    client, log, keys = service
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
    wait_for(lambda: "failed" in client.get("/metrics", headers=every).text)

    answers += [client.get(place, headers=every) for place in PLACES]
    shown = [answer.text + str(answer.headers) for answer in answers]
    assert "/generate" in shown[-len(PLACES)], "the metrics have counted"
    assert "keys.0.sha256" in log(), "the log has the refused file"
    for text in [*shown, log()]:
        assert SECRET not in text
        assert REPLY not in text
        assert "key of" not in text
