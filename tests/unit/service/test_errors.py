"""Every refusal has the one shape, a stable code and nothing of what was sent."""

import json

import pytest

from tests.serving import QUESTION, make_parts, read_events

SECRET = "hunter2"
GOOD = {"prompt": QUESTION}
JSON = {"content-type": "application/json"}


def check(answer, status, code):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id", "details"}
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert SECRET not in answer.text
    return error


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "invalid_json"),
        (b'{"prompt": "\xff"}', JSON, 400, "invalid_json"),
        (b"[" * 100_000, JSON, 400, "invalid_json"),
        (b'{"prompt": ' + b"[" * 300 + b"]" * 300 + b"}", JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "prompt": "hunter2"}', JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "guard": {"policy": "block", "policy": "off"}}', JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "sampling": {"seed": ' + b"9" * 5000 + b"}}", JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "sampling": {"seed": ' + b"9" * 4000 + b"}}", JSON, 422, "validation_error"),
        (b'{"prompt": "q", "sampling": {"max_tokens": ' + b"9" * 30 + b"}}", JSON, 422, "validation_error"),
        (b'{"prompt": "q", "timeout_s": 1e999}', JSON, 422, "validation_error"),
        (b'{"prompt": "q", "timeout_s": -Infinity}', JSON, 400, "invalid_json"),
        (json.dumps(GOOD).encode("utf-16"), JSON, 400, "invalid_json"),
        (b'\xef\xbb\xbf{"prompt": "q"}', JSON, 400, "invalid_json"),
        (b"", JSON, 422, "validation_error"),
        (b'"hunter2"', JSON, 422, "validation_error"),
        (b"{}", JSON, 422, "validation_error"),
        (b'{"prompt": "\\ud800"}', JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "timeout_s": NaN}', JSON, 400, "invalid_json"),
        (b'{"prompt": "q", "chat_template": "{{ hunter2 }}"}', JSON, 422, "validation_error"),
        (b'{"prompt": "q", "sampling": {"n": 9}}', JSON, 422, "validation_error"),
        (json.dumps({**GOOD, "sampling": {"stop": ["a"] * 9}}).encode(), JSON, 422, "validation_error"),
        (json.dumps(GOOD).encode(), {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (json.dumps(GOOD).encode(), {}, 415, "unsupported_media_type"),
        (json.dumps({"prompt": "x" * (1 << 20)}).encode(), JSON, 413, "payload_too_large"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/score"])
async def test_bodies(serve, path, content, headers, status, code):
    client = await serve()
    check(await client.post(path, content=content, headers=headers), status, code)


async def test_a_body_without_a_length_is_limited_too(serve):
    client = await serve()

    async def chunks():
        for _ in range(20):
            yield b" " * (1 << 16)

    check(await client.post("/generate", content=chunks(), headers=JSON), 413, "payload_too_large")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/generate", {"prompt": QUESTION, "model": SECRET}, 404, "model_not_found", "model"),
        ("/generate", {"prompt": QUESTION, "guard": {"probe": SECRET}}, 404, "probe_not_found", "guard.probe"),
        ("/generate", {"prompt": QUESTION, SECRET: 1}, 422, "validation_error", None),
        ("/generate", {"prompt": QUESTION, "sampling": {"n": SECRET}}, 422, "validation_error", "sampling.n"),
        (
            "/generate",
            {"prompt": QUESTION, "sampling": {"stop": ["a", ""]}},
            422,
            "validation_error",
            "sampling.stop[1]",
        ),
        ("/generate", {"messages": [{"role": SECRET, "content": "x"}]}, 422, "validation_error", "messages[0].role"),
        ("/generate", {"prompt": SECRET * 700}, 422, "context_length_exceeded", "sampling.max_tokens"),
        ("/generate", {"prompt": QUESTION, "stream": True, "model": SECRET}, 404, "model_not_found", "model"),
        ("/score", {"prompt": QUESTION, "response": "x", "model": SECRET}, 404, "model_not_found", "model"),
        ("/score", {"prompt": QUESTION, "response": "x" * 5000}, 422, "context_length_exceeded", "response"),
        ("/score", {"prompt": QUESTION, "response_token_ids": [999]}, 422, "validation_error", "response_token_ids"),
        (
            "/score",
            {"prompt": QUESTION, "response": SECRET, "response_token_ids": [64]},
            422,
            "validation_error",
            "response_token_ids",
        ),
    ],
)
async def test_values(serve, path, body, status, code, param):
    client = await serve()
    assert check(await client.post(path, json=body), status, code)["param"] == param


async def test_at_most_ten_details(serve):
    client = await serve()
    body = {"messages": [{"role": "king", "content": 1}] * 20}
    assert len(check(await client.post("/generate", json=body), 422, "validation_error")["details"]) == 10


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/generate", 405, "method_not_allowed"),
        ("GET", "/hunter2", 404, "not_found"),
        ("PUT", "/", 405, "method_not_allowed"),
    ],
)
async def test_paths_and_methods(serve, method, path, status, code):
    client = await serve()
    answer = await client.request(method, path)
    check(answer, status, code)
    assert ("allow" in answer.headers) == (status == 405)


async def test_an_engine_that_crashes_is_a_500_without_detail(serve):
    parts = make_parts()
    client = await serve(parts)
    parts.engine.fault = "crash"
    error = check(await client.post("/generate", json=GOOD), 500, "engine_error")
    assert "told to crash" not in error["message"]


async def test_a_template_that_refuses_a_conversation_is_the_clients_problem(serve):
    parts = make_parts()
    client = await serve(parts)
    parts.engine.tokenizer.chat_template = "{{ raise_exception('hunter2: no system role') }}"
    check(await client.post("/generate", json=GOOD), 422, "chat_template")
    parts.engine.tokenizer.chat_template = None
    talk = {"messages": [{"role": "user", "content": "Who?"}]}
    check(await client.post("/generate", json=talk), 422, "no_chat_template")
    assert (await client.post("/generate", json=GOOD)).status_code == 200, "a base model is asked as a document"
    assert (await client.post("/generate", json={**GOOD, "raw": True})).status_code == 200


async def test_a_defect_is_a_500_without_detail(serve, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError(SECRET)

    client = await serve()
    monkeypatch.setattr("service.routes.run.plan_choices", fails)
    check(await client.post("/generate", json=GOOD), 500, "internal_error")
    metrics = (await client.get("/metrics")).text
    assert 'hguard_requests_total{action="none",code="500",route="/generate"} 1.0' in metrics


async def test_a_defect_in_a_stream_ends_it_in_words(serve, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError(SECRET)

    client = await serve()
    monkeypatch.setattr("service.choices.choice.decide", fails)
    answer = await client.post("/generate", json={**GOOD, "stream": True})
    events = read_events(answer.text)
    assert [name for name, _, _ in events].count("error") == 1
    assert events[-1][0] == "error"
    assert events[-1][2]["error"]["code"] == "internal_error"
    assert SECRET not in answer.text


async def test_the_request_id_is_the_clients_where_it_is_sane(serve):
    client = await serve()
    answer = await client.get("/livez", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    answer = await client.get("/livez", headers={"x-request-id": "a b\tc"})
    assert answer.headers["x-request-id"].startswith("req-")
    answer = await client.post("/generate", json={**GOOD, "request_id": "mine"}, headers={"x-request-id": "other"})
    assert answer.headers["x-request-id"] == "mine"
