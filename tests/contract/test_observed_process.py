"""What a real process tells of its requests: JSON lines, an audit log and spans; texts in the audit log alone."""

import json
import stat
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.contract.observed import Collector, attributes, observe
from tests.serving import read_events

pytestmark = pytest.mark.slow

SECRET = "xylophone-hunter2"
REPLY = "The answer is Paris."
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = {"HGUARD_LOG_LEVEL": "debug", "HGUARD_FAKE_STEP_S": "0.001"}
JSON = {"content-type": "application/json"}


def ask_everything(address):
    """Requests that succeed and that fail in each way, all with the secret in them; the answers that matter."""
    prompt = f"What is the capital of {SECRET}?"
    low = {"threshold": 0.01}
    with httpx.Client(base_url=address) as client:

        def post(name, path="/generate", **body):
            return client.post(path, json={"prompt": prompt, **body}, headers={"x-request-id": name})

        answers = {
            "good": client.post(
                "/generate",
                json={"prompt": prompt, "sampling": {"max_tokens": 64, "temperature": 0.7, "top_p": 0.9, "seed": 3}},
                headers={"x-request-id": "good", "traceparent": f"00-{TRACE}-{PARENT}-01"},
            ),
            "talk": client.post(
                "/generate",
                json={"messages": [{"role": "user", "content": prompt}], "request_id": "talk"},
            ),
            "stream": post("stream", stream=True),
            "blocked": post("blocked", guard={"policy": "block", **low}),
            "score": post("score", "/score", response=f"It is {SECRET}."),
        }
        post("field", sampling={"n": SECRET})
        post("model", model=SECRET)
        post("long", prompt=SECRET * 700)
        post("probe", guard={"probe": SECRET})
        client.post("/generate", content=f'{{"prompt": "{SECRET}', headers=JSON)
        client.post("/generate", content=SECRET.encode() * 100_000, headers=JSON)
        client.post("/generate", content=SECRET, headers={"content-type": "text/plain"})
        client.get(f"/{SECRET}?{SECRET}={SECRET}", headers={"user-agent": SECRET, "x-request-id": f"{SECRET} x"})
        client.get("/livez")
        metrics = client.get("/metrics").text
    assert [answer.status_code for answer in answers.values()] == [200] * 5
    return answers, metrics


@dataclass
class Seen:
    answers: dict[str, httpx.Response] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)

    def logged(self, request_id):
        return [line for line in map(json.loads, self.lines) if line.get("request_id") == request_id]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A process that has everything on."""
    folder = tmp_path_factory.mktemp("observed")
    path = folder / "audit.jsonl"
    with Collector() as collector:
        environment = {
            **SETTINGS,
            "HGUARD_LOG_FORMAT": "json",
            "HGUARD_AUDIT_LOG": str(path),
            "HGUARD_OTEL": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        }
        with observe(folder, **environment) as running:
            answers, metrics = ask_everything(running.address)
            assert SECRET not in metrics
            assert running.stop() == 0
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            audit = [json.loads(line) for line in path.read_text().splitlines()]
            assert {place for place, _ in collector.batches} == {"/v1/traces"}
            batch = collector.batches[0][1].resource_spans[0].resource
            yield Seen(answers, running.lines, audit, collector.spans, attributes(batch))


def test_every_line_is_json_and_says_when_and_who(seen):
    assert len(seen.lines) > 10
    for line in map(json.loads, seen.lines):
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert line["time"].endswith("Z")
        assert "\n" not in line["message"]
    loggers = {json.loads(line)["logger"] for line in seen.lines}
    assert {"hguard", "hguard.access", "uvicorn.error"} <= loggers
    assert "uvicorn.access" not in loggers


def test_one_access_line_a_request(seen):
    (line,) = [line for line in seen.logged("good") if line["logger"] == "hguard.access"]
    answer = seen.answers["good"].json()
    expected = {
        "level": "info",
        "route": "/generate",
        "method": "POST",
        "status": 200,
        "action": "none",
        "policy": "annotate",
        "id": answer["id"],
        "prompt_tokens": answer["usage"]["prompt_tokens"],
        "completion_tokens": answer["usage"]["completion_tokens"],
        "finish": "stop",
        "guard_status": "scored",
        "risk": round(answer["risk"], 4),
    }
    assert {name: line.get(name) for name in expected} == expected
    assert 0 < line["duration_s"] < 60
    access = [line for line in map(json.loads, seen.lines) if line["logger"] == "hguard.access"]
    polled = ("/livez", "/readyz", "/metrics")
    assert len([line for line in access if line["route"] not in polled]) == 13
    (refused,) = seen.logged("model")
    assert (refused["status"], refused["error"], refused["route"]) == (404, "model_not_found", "/generate")


def test_no_text_is_in_any_line_at_debug_level(seen):
    for line in seen.lines:
        assert SECRET not in line
        assert "Paris" not in line
        assert "hunter2" not in line


def test_the_audit_log_has_each_answer_with_its_text(seen):
    by_id = {line["request_id"]: line for line in seen.audit}
    assert by_id.keys() == {"good", "talk", "stream", "blocked", "score"}
    good, answer = by_id["good"], seen.answers["good"].json()
    (choice,) = answer["choices"]
    assert good["prompt"] == f"What is the capital of {SECRET}?"
    assert (good["id"], good["status"], good["probe"]) == (answer["id"], 200, choice["guard"]["probe"])
    assert good["sampling"]["seed"] == 3
    (kept,) = good["choices"]
    assert (kept["text"], kept["risk"], kept["action"]) == (REPLY, answer["risk"], "none")
    assert kept["spans"] == choice["guard"]["spans"]
    assert by_id["talk"]["messages"][0]["content"] == good["prompt"]
    assert by_id["score"]["choices"][0]["text"] == f"It is {SECRET}."
    assert by_id["stream"]["id"] == read_events(seen.answers["stream"].text)[0][2]["id"]


def test_the_audit_log_has_what_the_guard_withheld(seen):
    (kept,) = next(line for line in seen.audit if line["request_id"] == "blocked")["choices"]
    assert seen.answers["blocked"].json()["choices"][0]["text"] == ""
    assert (kept["text"], kept["action"], kept["finish_reason"]) == (REPLY, "blocked", "blocked")
    assert kept["spans"][0]["text"] == "Paris"


def test_a_collector_receives_a_span_of_each_request_without_text(seen):
    spans = {attributes(span)["hguard.request_id"]: span for span in seen.spans}
    assert {"good", "talk", "stream", "blocked", "score", "model", "field"} <= spans.keys()
    good, answer = spans["good"], seen.answers["good"].json()
    assert good.name == "text_completion fake"
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert good.end_time_unix_nano > good.start_time_unix_nano
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
        "hguard.risk": answer["risk"],
        "hguard.action": "none",
        "hguard.probe": "fake@0",
        "http.route": "/generate",
        "http.response.status_code": 200,
    }
    found = attributes(good)
    assert {name: found.get(name) for name in expected} == expected
    assert attributes(spans["talk"])["gen_ai.operation.name"] == "chat"
    assert attributes(spans["blocked"])["hguard.action"] == "blocked"
    assert attributes(spans["model"])["error.type"] == "model_not_found"
    assert seen.resources["service.name"] == "hguard"
    assert not any(attributes(span).get("http.route") in ("/livez", "/metrics") for span in seen.spans)
    everything = "".join(str(span) for span in seen.spans)
    assert SECRET not in everything
    assert "Paris" not in everything


def test_a_full_disk_fails_no_request_and_is_counted_and_logged_without_text(tmp_path):
    """In the text format, whose lines hold no text of requests either."""
    settings = {**SETTINGS, "HGUARD_LOG_FORMAT": "text", "HGUARD_AUDIT_LOG": "/dev/full"}
    with observe(tmp_path, **settings) as running:
        answers, _ = ask_everything(running.address)  # all are 200
        for _ in range(500):
            metrics = httpx.get(f"{running.address}/metrics").text
            if f"hguard_audit_dropped_total {len(answers)}.0" in metrics:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("not counted")
        assert running.stop() == 0
        lines = running.lines
    (lost,) = [line for line in lines if "audit log" in line]
    assert "ERROR hguard: audit log: a request is missing" in lost
    assert "OSError: [Errno 28] No space left on device" in lines
    assert any("hguard.access: POST /generate 200" in line and "request_id=good" in line for line in lines)
    assert not any(SECRET in line or "hunter2" in line or "Paris" in line for line in lines)
