"""POST /v1/checks: NeMo's messages in, its three fields out, and the numbers of /score."""

import hashlib
import re

import pytest

from tests.serving import QUESTION, make_parts

ANSWER = "The answer is Paris."
USER, ASSISTANT = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}


async def check(client, *messages, **more):
    return await client.post("/v1/checks", json={"messages": list(messages or (USER, ASSISTANT)), **more})


@pytest.fixture
async def client(serve):
    return await serve()


async def test_it_says_what_score_says(client):
    scored = (await client.post("/score", json={"messages": [USER], "response": ANSWER})).json()
    found = (await check(client, guard={"policy": "annotate"})).json()
    assert found["risk"] == scored["risk"] is not None
    assert found["guard"] == scored["guard"]
    assert found["guard"]["out_of_domain"] is False


async def test_blocked_from_the_threshold_on_and_the_answer_is_not_sent_back(client):
    risk = (await check(client)).json()["risk"]
    blocked = (await check(client, guard={"threshold": risk})).json()
    assert (blocked["status"], blocked["rail"], blocked["guard"]["action"]) == ("blocked", "hguard fake@0", "blocked")
    assert blocked["content"] == "I am not sure enough to answer that."
    assert "Paris" not in str(blocked)
    passed = (await check(client, guard={"threshold": risk + 1e-9})).json()
    assert (passed["status"], passed["rail"], passed["content"]) == ("passed", None, ANSWER)


@pytest.mark.parametrize(("policy", "action"), [("flag", "flagged"), ("annotate", "none")])
async def test_other_policies_pass_and_say_what_they_saw(client, policy, action):
    found = (await check(client, guard={"policy": policy, "threshold": 0.01})).json()
    assert (found["status"], found["content"], found["guard"]["action"]) == ("passed", ANSWER, action)


async def test_the_shape_of_nemo_clients_is_read(client):
    parts = [{"type": "text", "text": QUESTION}]
    plain = (await check(client)).json()
    found = await check(
        client, {"role": "user", "content": parts}, ASSISTANT, model="fake", guardrails={"rail_types": ["output"]}
    )
    assert found.json()["risk"] == plain["risk"]


@pytest.mark.parametrize(
    ("messages", "more", "param"),
    [
        ([USER], {}, "messages"),
        ([ASSISTANT], {}, "messages"),
        ([USER, USER], {}, "messages"),
        ([ASSISTANT, ASSISTANT], {}, "messages"),
        ([USER, {"role": "assistant", "content": ""}], {}, "messages"),
        ([USER, {"role": "tool", "content": "x"}], {}, "messages[1].role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT], {}, "messages[0].content"),
        ([], {"guardrails": {"rail_types": ["input"]}}, "guardrails.rail_types[0]"),
        ([], {"guardrails": {"config_id": "mine"}}, "guardrails"),
        ([], {"guard": {"policy": "abstain"}}, "guard.policy"),
        ([], {"guard": {"policy": "off"}}, "guard.policy"),
        ([], {"guard": {"threshold": "fpr:0.33"}}, "guard.threshold"),
        ([], {"temperature": 1.0}, None),
    ],
)
async def test_what_cannot_be_judged_is_refused_and_never_passed(client, messages, more, param):
    answer = await check(client, *messages, **more)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(("on_error", "code"), [("fail_closed", 503), ("fail_open", 200)])
async def test_an_unscored_answer_is_an_error_or_passes_with_no_risk(serve, on_error, code):
    parts = make_parts(locator="response")
    client = await serve(parts, on_error=on_error)
    parts.engine.fault = "nan_scores"
    answer = await check(client)
    assert answer.status_code == code
    metrics = (await client.get("/metrics")).text
    assert 'hguard_scoring_failures_total{reason="not_finite"} 1.0' in metrics
    if code == 503:
        assert answer.json()["error"]["code"] == "guard_unavailable"
        assert not re.search(r"hguard_fail_open_total\{.*\} [^0]", metrics)
    else:
        found = answer.json()
        assert (found["status"], found["risk"], found["guard"]["status"]) == ("passed", None, "failed")
        assert 'hguard_fail_open_total{reason="not_finite"} 1.0' in metrics


@pytest.mark.parametrize("policies", ['["abstain"]', '["stop", "suppress"]', '["off"]'])
async def test_hazard_a_key_without_block_lets_checks_pass(serve, tmp_path, policies):
    keys = tmp_path / "keys.toml"
    keys.write_text(LIMITED.replace('["block"]', policies))
    client = await serve(api_keys_file=keys)
    client.headers["authorization"] = "Bearer secret"
    assert (await check(client, guard={"threshold": 0.01})).json()["status"] == "blocked"
    await client.post("/beta/litellm_basic_guardrail_api", json={**CALL, "input_type": "request", "texts": [QUESTION]})
    verdict = {**CALL, "input_type": "response", "texts": [ANSWER]}
    found = await client.post("/beta/litellm_basic_guardrail_api", json=verdict)
    assert found.json()["action"] == "BLOCKED"


CALL = {"litellm_call_id": "c", "additional_provider_specific_params": {"threshold": 0.01}}
LIMITED = f"""[[keys]]
name = "web"
sha256 = "{hashlib.sha256(b"secret").hexdigest()}"
scopes = ["infer"]
limits = {{policies = ["block"], on_error = "fail_closed"}}
"""


@pytest.mark.parametrize("path", ["/v1/checks", "/beta/litellm_basic_guardrail_api"])
@pytest.mark.parametrize(
    ("options", "code"),
    [({"policy": "flag"}, "policy_limit"), ({"on_error": "fail_open"}, "on_error_limit"), ({}, None)],
)
async def test_hazard_a_key_that_must_block_only_looks_on(serve, tmp_path, path, options, code):
    keys = tmp_path / "keys.toml"
    keys.write_text(LIMITED)
    client = await serve(api_keys_file=keys)
    client.headers["authorization"] = "Bearer secret"
    if path == "/v1/checks":
        answer = await check(client, guard=options)
    else:
        call = {"litellm_call_id": "c", "additional_provider_specific_params": options}
        await client.post(path, json={**call, "input_type": "request", "texts": [QUESTION]})
        answer = await client.post(path, json={**call, "input_type": "response", "texts": [ANSWER]})
    assert (answer.status_code, answer.json().get("error", {}).get("code")) == (403 if code else 200, code)
