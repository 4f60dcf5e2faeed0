"""What the operator allows a key: more is a 403 that names the limit, silence gets what is allowed."""

import pytest

from tests.contract.asking import body
from tests.keys import show, write_keys
from tests.serving import QUESTION, make_parts, read_events

INFER = show("infer")


@pytest.fixture
def limited(serve, tmp_path):
    async def start(limits, parts=None, **settings):
        return await serve(parts or make_parts(), api_keys_file=write_keys(tmp_path, limits, free="infer"), **settings)

    return start


@pytest.mark.parametrize(
    ("limits", "asked", "code", "param"),
    [
        ("max_tokens = 5", {"sampling": {"max_tokens": 6}}, "max_tokens_limit", "sampling.max_tokens"),
        ('policies = ["block", "stop"]', {"guard": {"policy": "off"}}, "policy_limit", "guard.policy"),
        ('policies = ["block"]', {"guard": {"policy": "annotate"}}, "policy_limit", "guard.policy"),
        (
            'policies = ["block"]',
            {"guard": {"policy": "block", "locator": "response"}},
            "policy_limit",
            "guard.locator",
        ),
        ('policies = ["block"]', {"guard": {"policy": "block", "alpha": 0.0}}, "policy_limit", "guard.alpha"),
        ("max_threshold = 0.5", {"guard": {"threshold": 0.51}}, "threshold_limit", "guard.threshold"),
        ("max_threshold = 0.5", {"guard": {"threshold": "fpr:0.05"}}, "threshold_limit", "guard.threshold"),
        ('on_error = "fail_closed"', {"guard": {"on_error": "fail_open"}}, "on_error_limit", "guard.on_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_hazard_a_limit_is_passed_over(limited, limits, asked, code, param, stream):
    client = await limited(limits)
    answer = await client.post("/generate", json=body(stream=stream, stream_mode="hold", **asked), headers=INFER)
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    answer = await client.post("/generate", json=body(**asked), headers=show("free"))
    assert answer.status_code == 200, "the limit is one key's"


async def test_hazard_score_passes_over_a_limit(limited):
    client = await limited('max_threshold = 0.5, on_error = "fail_closed", policies = ["block"]')
    talk = {"prompt": QUESTION, "response": "It is Paris."}
    for guard, status in (({"threshold": 0.6}, 403), ({"on_error": "fail_open"}, 403), ({}, 200)):
        answer = await client.post("/score", json={**talk, "guard": guard}, headers=INFER)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_hazard_openais_routes_pass_over_a_limit(limited, path, stream):
    client = await limited('policies = ["block"], max_tokens = 20, max_threshold = 0.000001')
    talk = {"messages": [{"role": "user", "content": QUESTION}]} if "chat" in path else {"prompt": QUESTION}
    for asked, code in (({"guard": {"policy": "off"}}, "policy_limit"), ({"max_tokens": 21}, "max_tokens_limit")):
        answer = await client.post(path, json={"model": "fake", "stream": stream, **talk, **asked}, headers=INFER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    sent = {"model": "fake", "stream": stream, "temperature": 0, "max_tokens": 20, **talk}
    answer = await client.post(path, json=sent, headers=INFER)
    assert answer.status_code == 200, answer.text
    assert "content_filter" in answer.text
    assert "Paris" not in answer.text


async def test_silence_gets_what_is_allowed(limited):
    client = await limited('max_tokens = 3, policies = ["block", "stop"], max_threshold = 0.25')
    found = (await client.post("/generate", json={"prompt": QUESTION}, headers=INFER)).json()
    assert found["usage"]["completion_tokens"] == 3
    assert found["choices"][0]["guard"]["threshold"] == 0.25


@pytest.mark.parametrize("mode", [{}, {"stream_mode": "immediate"}, {"stream_mode": "hold"}])
async def test_hazard_a_policy_of_the_key_withholds_what_the_stream_has_sent(limited, mode):
    client = await limited('policies = ["block"], max_threshold = 0.000001')
    answer = await client.post("/generate", json={"prompt": QUESTION, "stream": True, **mode}, headers=INFER)
    events = read_events(answer.text)
    assert events[0][2]["stream_mode"] == "hold"
    assert events[-1][0] == "done"
    assert events[-1][2]["choices"][0]["finish_reason"] == "blocked"
    assert not [event for event in events if event[0] == "token"]
    assert "Paris" not in answer.text


async def test_hazard_a_keys_fail_closed_yields_to_the_servers_fail_open(limited):
    parts = make_parts()
    client = await limited('on_error = "fail_closed"', parts, on_error="fail_open")
    parts.engine.fault = "nan_scores"
    for name, status in (("infer", 503), ("free", 200)):
        assert (await client.post("/generate", json={"prompt": QUESTION}, headers=show(name))).status_code == status


async def test_a_default_that_the_request_contradicts_is_refused(limited):
    client = await limited('policies = ["off"]')
    answer = await client.post("/generate", json={"prompt": QUESTION, "guard": {"explain": True}}, headers=INFER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "policy_limit")


async def test_x_api_key_is_taken_too(limited):
    client = await limited("max_tokens = 3")
    answer = await client.post("/generate", json={"prompt": QUESTION}, headers={"x-api-key": "key of infer"})
    assert answer.json()["usage"]["completion_tokens"] == 3
