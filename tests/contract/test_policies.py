"""What each policy does with a risky and with a safe response, in JSON and in a stream (fake engine: known texts)."""

from dataclasses import replace
from math import exp

import pytest

from probes.risk import Budget
from tests.serving import QUESTION, make_parts, read_events

LOW, HIGH = 0.01, 0.99


async def ask(client, policy, threshold, *, stream=False, mode="hold", **guard):
    answer = await client.post(
        "/generate",
        json={
            "prompt": QUESTION,
            "guard": {"policy": policy, "threshold": threshold, "return_tokens": True, **guard},
            "stream": stream,
            "stream_mode": mode,
        },
    )
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("threshold", "action"), [(LOW, "flagged"), (HIGH, "none")])
async def test_flag(serve, threshold, action):
    client = await serve()
    answer = (await ask(client, "flag", threshold)).json()
    assert answer["choices"][0]["guard"]["action"] == action
    assert answer["choices"][0]["text"] == "The answer is Paris."
    metrics = (await client.get("/metrics")).text
    assert f'hguard_actions_total{{action="{action}",policy="flag"}} 1.0' in metrics
    assert f'hguard_requests_total{{action="{action}",code="200",route="/generate"}} 1.0' in metrics


@pytest.mark.parametrize(
    ("policy", "action", "text"),
    [("block", "blocked", ""), ("abstain", "abstained", "I am not sure enough to answer that.")],
)
async def test_a_withheld_response_leaves_in_no_form(serve, policy, action, text):
    client = await serve()
    for stream in (False, True):
        answer = await ask(client, policy, LOW, stream=stream, explain=True)
        assert "Paris" not in answer.text
        assert '"text":"P"' not in answer.text
        assert '"id":47' not in answer.text
        done = read_events(answer.text)[-1][2] if stream else answer.json()
        (choice,) = done["choices"]
        assert (choice["text"], choice["finish_reason"]) == (text, action)
        if stream:
            assert [name for name, _, _ in read_events(answer.text)] == ["start", "span", "guard", "done"]
            guard = read_events(answer.text)[-2][2]
        else:
            guard = choice["guard"]
        assert guard["action"] == action
        assert guard["risk"] > LOW
        assert {token["text"] for token in guard["tokens"]} == {None}
        assert {token["id"] for token in guard["tokens"]} == {None}


@pytest.mark.parametrize("policy", ["block", "abstain"])
async def test_a_safe_response_passes(serve, policy):
    client = await serve()
    assert (await ask(client, policy, HIGH)).json()["choices"][0]["text"] == "The answer is Paris."
    events = read_events((await ask(client, policy, HIGH, stream=True)).text)
    assert "".join(data["text"] for name, _, data in events if name == "token") == "The answer is Paris."
    assert all(data["is_answer"] is not None for name, _, data in events if name == "token")


def by_alpha(texts):
    return make_parts(reply=lambda request: texts[request.alpha])


async def risks(serve, *texts):
    client = await serve()
    return [(await client.post("/score", json={"prompt": QUESTION, "response": text})).json()["risk"] for text in texts]


async def test_suppress_keeps_the_lower_risk_and_reports_both(serve):
    texts = ["The answer is Paris.", "The answer is Rome."]
    scored = await risks(serve, *texts)
    low, high = (texts[scored.index(pick(scored))] for pick in (min, max))
    client = await serve(by_alpha({1.0: high, 0.0: low, 0.4: low}))
    for stream, mode in ((False, "hold"), (True, "hold"), (True, "immediate")):
        answer = await ask(client, "suppress", LOW, stream=stream, mode=mode)
        if stream:
            events = read_events(answer.text)
            guard, done = events[-2][2], events[-1][2]
            assert events[0][2]["stream_mode"] == "hold"
            assert "".join(data["text"] for name, _, data in events if name == "token") == low
        else:
            done = answer.json()
            guard = done["choices"][0]["guard"]
        assert done["choices"][0]["text"] == low
        assert (guard["action"], guard["alpha"]) == ("suppressed", 0.0)
        assert guard["risk"] == done["risk"] == pytest.approx(min(scored))
        assert guard["suppressed"] == {
            "alpha": 0.0,
            "baseline_risk": pytest.approx(max(scored)),
            "risk": pytest.approx(min(scored)),
            "kept": "suppressed",
        }
    guard = (await ask(client, "suppress", LOW, alpha=0.4)).json()["choices"][0]["guard"]
    assert guard["suppressed"]["alpha"] == 0.4
    assert "hguard_suppressed_requests_total 4.0" in (await client.get("/metrics")).text


async def test_suppress_that_makes_it_worse_keeps_the_first_and_flags_it(serve):
    texts = ["The answer is Paris.", "The answer is Rome."]
    scored = await risks(serve, *texts)
    low, high = (texts[scored.index(pick(scored))] for pick in (min, max))
    client = await serve(by_alpha({1.0: low, 0.0: high}))
    answer = (await ask(client, "suppress", LOW)).json()
    guard = answer["choices"][0]["guard"]
    assert (answer["choices"][0]["text"], guard["action"], guard["alpha"]) == (low, "flagged", 1.0)
    assert guard["suppressed"]["kept"] == "baseline"


async def test_suppress_under_the_threshold_generates_once(serve):
    client = await serve()
    guard = (await ask(client, "suppress", HIGH)).json()["choices"][0]["guard"]
    assert (guard["action"], guard["suppressed"]) == ("none", None)


@pytest.mark.parametrize("position", ["own", "predicting"])
async def test_stop_ends_at_the_token_where_the_running_risk_crosses(serve, position):
    client = await serve(make_parts(position=position, locator="response"))
    tokens = (await ask(client, "annotate", 0.5)).json()["choices"][0]["guard"]["tokens"]
    means = [sum(token["logit"] for token in tokens[: n + 1]) / (n + 1) for n in range(len(tokens))]
    lowest = [min(token["logprob"] for token in tokens[: n + 1]) for n in range(len(tokens))]
    # A threshold that is first crossed somewhere inside; the combination is the one of `service.engines.fake_probe`.
    combined = [mean - 0.5 * low - 0.25 for mean, low in zip(means, lowest, strict=True)]
    cut = next(n for n in range(3, len(combined)) if combined[n] > max(combined[:n]))
    threshold = 1 / (1 + exp(-(1.5 * (combined[cut] - 1e-6) + 0.1)))
    answer = (await ask(client, "stop", threshold)).json()
    (choice,) = answer["choices"]
    assert len(choice["guard"]["tokens"]) == cut + 1
    assert (choice["guard"]["action"], choice["finish_reason"]) == ("stopped", "stop")
    assert choice["guard"]["risk"] >= threshold
    events = read_events((await ask(client, "stop", threshold, stream=True, mode="immediate")).text)
    assert "".join(data["text"] for name, _, data in events if name == "token") == choice["text"]
    assert events[-2][2]["risk"] == choice["guard"]["risk"]
    assert (await ask(client, "stop", HIGH)).json()["choices"][0]["guard"]["action"] == "none"


@pytest.mark.parametrize(("budget", "threshold"), [("fpr:0.05", 0.9), ("fpr:.1", 0.8)])
async def test_a_budget_acts_from_the_threshold_that_the_probe_carries_for_it(serve, budget, threshold):
    client = await serve()
    by_budget, by_risk = [
        (await ask(client, "flag", asked)).json()["choices"][0]["guard"] for asked in (budget, threshold)
    ]
    assert by_budget == by_risk
    assert by_budget["threshold"] == threshold
    assert by_budget["action"] == ("flagged" if by_budget["risk"] >= threshold else "none")


async def test_a_budget_decides_block_and_stop_too(serve):
    """The risk of the fake's reply lies between its two thresholds when the probe is moved there."""
    parts = make_parts(locator="response")
    client = await serve(parts)
    risk = (await ask(client, "annotate", 0.5)).json()["risk"]
    budgets = (
        Budget(0.05, threshold=risk + 1e-3, low=0.0, high=1.0),
        Budget(0.1, threshold=risk - 1e-3, low=0.0, high=1.0),
    )
    artifact = replace(parts.artifact, probe=replace(parts.artifact.probe, budgets=budgets))
    client = await serve(replace(make_parts(locator="response"), artifact=artifact))
    for policy, action in (("block", "blocked"), ("abstain", "abstained")):
        assert (await ask(client, policy, "fpr:0.05")).json()["choices"][0]["guard"]["action"] == "none"
        assert (await ask(client, policy, "fpr:0.1")).json()["choices"][0]["guard"]["action"] == action


@pytest.mark.parametrize("path", ["/generate", "/score"])
async def test_a_budget_that_the_probe_does_not_carry_is_refused_with_those_it_does(serve, path):
    client = await serve()
    body = {"prompt": QUESTION, "guard": {"policy": "flag", "threshold": "fpr:0.03"}}
    answer = await client.post(path, json=body if path == "/generate" else {**body, "response": "Paris"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_budget", "guard.threshold")
    assert '"fpr:0.05", "fpr:0.1"' in error["message"]
    assert "0.03" not in answer.text


async def test_a_stream_with_an_unknown_budget_is_refused_before_it_begins(serve):
    client = await serve()
    body = {"prompt": QUESTION, "stream": True, "guard": {"threshold": "fpr:0.03"}}
    assert (await client.post("/generate", json=body)).status_code == 422


@pytest.mark.parametrize("position", ["own", "predicting"])
async def test_a_stream_has_the_numbers_of_the_json_to_the_last_bit(serve, position):
    """The fake's rows do not depend on a batch, so nothing but the guard's own sums could differ."""
    client = await serve(make_parts(position=position))
    guard = (await ask(client, "annotate", 0.5)).json()["choices"][0]["guard"]
    for mode in ("immediate", "hold"):
        events = read_events((await ask(client, "annotate", 0.5, stream=True, mode=mode)).text)
        tokens = [data for name, _, data in events if name == "token"]
        assert [(token["logit"], token["risk"]) for token in tokens] == [
            (token["logit"], token["risk"]) for token in guard["tokens"]
        ]
        (span,) = [data for name, _, data in events if name == "span"]
        final = events[-2][2]
        assert (span["risk"], final["risk"], final["signals"]) == (
            guard["spans"][0]["risk"],
            guard["risk"],
            guard["signals"],
        )
