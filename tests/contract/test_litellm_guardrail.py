"""LiteLLM's guardrail route: the prompt comes before the call, the answers after it, and no fault is a quiet pass."""

import httpx
import pytest

from service.engines.base import EngineError
from tests.serving import QUESTION, make_parts, serve_on_port, wait_until

PATH = "/beta/litellm_basic_guardrail_api"
USER = {"role": "user", "content": QUESTION}
ANSWER = "The answer is Paris."
# What LiteLLM 1.106.2 sent, as it was seen on the wire.
REQUEST = {
    "input_type": "request",
    "litellm_call_id": "call-1",
    "litellm_trace_id": "trace-1",
    "structured_messages": [USER],
    "images": None,
    "tools": None,
    "texts": [QUESTION],
    "request_data": {"user_api_key_user_id": "default_user_id"},
    "request_headers": {"host": "127.0.0.1", "user-agent": "python-httpx/0.28.1"},
    "litellm_version": "1.106.2",
    "additional_provider_specific_params": {"policy": "block"},
    "tool_calls": None,
    "model": "guarded",
}
RESPONSE = {**REQUEST, "input_type": "response", "texts": [ANSWER], "structured_messages": None}


async def post(client, asked, params=None, **changes):
    params = {"additional_provider_specific_params": params} if params is not None else {}
    answer = await client.post(PATH, json={**asked, **changes, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def remember(client, **changes):
    assert (await post(client, REQUEST, **changes))["action"] == "NONE"


async def counted(client, name):
    """The series of a counter that are not 0."""
    lines = (await client.get("/metrics")).text.splitlines()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}
    return {series: value for series, value in found.items() if value}


@pytest.fixture
async def client(serve):
    return await serve()


async def test_the_answer_is_judged_against_the_remembered_prompt_as_score_would(client):
    await remember(client)
    scored = (await client.post("/score", json={"messages": [USER], "response": ANSWER})).json()
    found = await post(client, RESPONSE, {"policy": "annotate"})
    assert (found["action"], found["model"], found["unscored"]) == ("NONE", "fake", [])
    assert found["risk"] == scored["risk"] is not None
    assert found["guards"] == [scored["guard"]]
    assert found["guards"][0]["out_of_domain"] is False
    other = [{"role": "system", "content": "Be brief."}, USER]
    await remember(client, structured_messages=other, litellm_call_id="call-2")
    assert (await post(client, RESPONSE, litellm_call_id="call-2"))["risk"] != scored["risk"]


async def test_the_configuration_chooses_policy_and_threshold(client):
    await remember(client)
    risk = (await post(client, RESPONSE))["risk"]
    blocked = await post(client, RESPONSE, {"threshold": risk})
    assert blocked["action"] == "BLOCKED"
    assert blocked["blocked_reason"].startswith(f"hguard blocked this answer: hallucination risk {risk:.2f}")
    assert "Paris" not in str(blocked)
    assert (await post(client, RESPONSE, {"threshold": min(risk + 1e-9, 1)}))["action"] == "NONE"
    flagged = await post(client, RESPONSE, {"policy": "flag", "threshold": 0.01})
    assert (flagged["action"], flagged["guards"][0]["action"]) == ("NONE", "flagged")
    budget = await post(client, RESPONSE, {"threshold": "fpr:0.05"})
    assert budget["guards"][0]["threshold"] == 0.9
    assert (await counted(client, "hguard_actions_total"))['hguard_actions_total{action="blocked",policy="block"}'] == 2


async def test_a_guardrail_without_parameters_blocks(client):
    await remember(client)
    found = await post(client, {**RESPONSE, "additional_provider_specific_params": None})
    assert (found["action"], found["guards"][0]["threshold"]) == ("BLOCKED", 0.5)


async def test_one_risky_choice_blocks_them_all(client):
    await remember(client)
    texts = ["I don't know.", ANSWER, ""]
    found = await post(client, RESPONSE, texts=texts)
    assert found["action"] == "BLOCKED"
    assert [guard and guard["status"] for guard in found["guards"]] == ["no_answer", "scored", None]
    assert (await post(client, RESPONSE, texts=texts[::2]))["action"] == "NONE"


async def test_an_answer_without_text_or_claim_passes(client):
    await remember(client)
    for texts in ([], [""], ["I don't know."], None):
        assert (await post(client, RESPONSE, texts=texts))["action"] == "NONE"
    assert await counted(client, "hguard_scoring_failures_total{") == {}


IMAGE = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": "x"}]}
CASES = [
    ({"litellm_call_id": "another"}, "prompt_not_remembered"),
    ({"litellm_call_id": None}, "prompt_not_remembered"),
    ({"structured_messages": [IMAGE]}, "prompt_unsupported"),
    ({"images": ["data:"]}, "prompt_unsupported"),
    ({"structured_messages": None, "texts": ["one", "two"]}, "prompt_unsupported"),
]


@pytest.mark.parametrize(("changes", "reason"), CASES)
@pytest.mark.parametrize("by_configuration", [True, False])
async def test_an_answer_without_its_prompt_follows_on_error(serve, changes, reason, by_configuration):
    """HGUARD_ON_ERROR, or the gateway's configuration of this guardrail."""
    closed = await serve()
    await remember(closed, **changes)
    found = await post(closed, RESPONSE)
    assert (found["action"], found["risk"], found["unscored"]) == ("BLOCKED", None, [reason])
    assert found["blocked_reason"].startswith(f"hguard blocked this answer: unscored, {reason} (fail_closed)")
    assert await counted(closed, "hguard_fail_open_total{") == {}
    opened = closed if by_configuration else await serve(make_parts(), on_error="fail_open")
    await remember(opened, **changes)
    found = await post(opened, RESPONSE, {"on_error": "fail_open"} if by_configuration else None)
    assert (found["action"], found["risk"], found["unscored"]) == ("NONE", None, [reason])
    assert await counted(opened, "hguard_fail_open_total{") == {f'hguard_fail_open_total{{reason="{reason}"}}': 1}
    failures = await counted(opened, "hguard_scoring_failures_total{")
    assert failures == {f'hguard_scoring_failures_total{{reason="{reason}"}}': 2 if by_configuration else 1}


FAULTS = [
    ("nan_scores", "guard_unavailable", "not_finite"),
    ("missing_rows", "guard_unavailable", "engine_error"),
    ("crash", "guard_unavailable", "engine_error"),
]


@pytest.mark.parametrize(("fault", "reason", "counted_as"), FAULTS)
@pytest.mark.parametrize("on_error", ["fail_closed", "fail_open"])
async def test_a_scorer_that_fails_is_never_a_clean_answer(serve, fault, reason, counted_as, on_error):
    parts = make_parts(locator="response")
    client = await serve(parts, on_error=on_error)
    await remember(client)
    parts.engine.fault = fault
    found = await post(client, RESPONSE)
    assert (found["risk"], found["unscored"]) == (None, [reason])
    assert found["action"] == ("BLOCKED" if on_error == "fail_closed" else "NONE")
    failures = await counted(client, "hguard_scoring_failures_total{")
    assert failures == {f'hguard_scoring_failures_total{{reason="{counted_as}"}}': 1}
    opened = await counted(client, "hguard_fail_open_total{")
    assert opened == ({f'hguard_fail_open_total{{reason="{counted_as}"}}': 1} if on_error == "fail_open" else {})


async def test_a_late_verdict_blocks_before_the_gateway_gives_up_waiting(serve):
    parts = make_parts()
    client = await serve(parts)
    await remember(client)
    parts.engine.fault = "hang"
    found = await post(client, RESPONSE, {"timeout_s": 0.05})
    assert (found["action"], found["unscored"]) == ("BLOCKED", ["timeout"])
    assert parts.engine.running == 0


@pytest.mark.parametrize("path", [PATH, "/v1/checks"])
async def test_a_gateway_that_stops_waiting_stops_the_scoring(path):
    parts = make_parts()
    conversation = [USER, {"role": "assistant", "content": ANSWER}]
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            await remember(client)
            parts.engine.fault = "hang"
            with pytest.raises(httpx.ReadTimeout):
                await client.post(path, json=RESPONSE if path == PATH else {"messages": conversation}, timeout=0.3)
            await wait_until(lambda: parts.engine.running == 0)
            assert (await counted(client, "hguard_client_disconnects_total")) == {"hguard_client_disconnects_total": 1}
            assert (await counted(client, "hguard_requests_running")) == {}


@pytest.mark.parametrize("error", [RuntimeError("a defect"), EngineError("gone")])
async def test_a_scorer_that_raises_anything_blocks_with_200(serve, monkeypatch, error):
    """LiteLLM lets an answer past an error of the guardrail where fail_on_error is false; never past BLOCKED."""
    parts = make_parts()
    client = await serve(parts)
    await remember(client)

    async def fail(*_, **__):
        raise error

    monkeypatch.setattr(parts.engine, "score", fail)
    assert (await post(client, RESPONSE))["action"] == "BLOCKED"


async def test_a_service_that_is_not_ready_blocks_with_200_since_503_could_be_let_past(serve):
    client = await serve(make_parts(fault="nan_scores"))
    assert (await client.get("/readyz")).status_code == 503
    await remember(client)
    assert (await post(client, RESPONSE))["unscored"] == ["not_ready"]
    assert (await post(client, RESPONSE))["action"] == "BLOCKED"


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"polcy": "block"}, 422),
        ({"policy": "abstain"}, 422),
        ({"policy": "off"}, 422),
        ({"threshold": 1.5}, 422),
        ({"threshold": "fpr:0.33"}, 422),
        ({"probe": "another"}, 404),
    ],
)
async def test_a_wrong_configuration_is_an_error_even_under_fail_open(serve, params, status):
    client = await serve(make_parts(), on_error="fail_open")
    await remember(client)
    answer = await client.post(PATH, json={**RESPONSE, "additional_provider_specific_params": params})
    assert answer.status_code == status


async def test_prompts_that_nobody_judged_are_counted_when_they_go(serve):
    client = await serve(make_parts(), remember_bytes=3000)
    for at in range(4):
        await remember(client, litellm_call_id=f"call-{at}")
    assert await counted(client, "hguard_prompts_forgotten_total{") == {
        'hguard_prompts_forgotten_total{reason="evicted"}': 2
    }
    assert (await post(client, RESPONSE, litellm_call_id="call-0"))["unscored"] == ["prompt_not_remembered"]
