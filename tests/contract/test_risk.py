"""The risk and the domain of a response: worked out from the numbers that are shown, and the same from POST /score."""

from dataclasses import replace
from math import exp

import pytest

from probes.domain import Domain, PartRange
from tests.contract.asking import ask, ask_stream, close
from tests.serving import QUESTION


@pytest.mark.parametrize("stop", [[], ["s"]])
async def test_a_scored_response_has_the_numbers_of_the_generated_one(serve, parts, stop):
    client = await serve(parts)
    answer = await ask(client, sampling={"stop": stop}, guard={"explain": True})
    guard = answer["choices"][0]["guard"]
    scored = await client.post(
        "/score",
        json={
            "prompt": QUESTION,
            "response": answer["choices"][0]["text"],
            "response_token_ids": [token["id"] for token in guard["tokens"]],
            "guard": {"return_tokens": True, "explain": True},
        },
    )
    assert scored.status_code == 200, scored.text
    assert close(scored.json()["guard"], guard)
    assert scored.json()["risk"] == pytest.approx(answer["risk"], abs=1e-4)
    assert scored.json()["usage"] == answer["usage"]


@pytest.mark.parametrize("stream", [False, True])
async def test_risks_are_the_combination_of_the_numbers_that_are_shown(serve, parts, stream):
    """Worked out again from the tokens of the answer: the response, its spans and every token as a span of its own."""
    client = await serve(parts)
    probe = parts.artifact.probe
    if stream:
        events = await ask_stream(client)
        guard, tokens = events[-2][2], [data for name, _, data in events if name == "token"]
    else:
        guard = (await ask(client))["choices"][0]["guard"]
        tokens = guard["tokens"]

    def risk_of(some):
        logprobs, entropies = [token["logprob"] for token in some], [token["entropy"] for token in some]
        values = {
            "cett": sum(token["logit"] for token in some) / len(some),
            "residual": sum(token["residual"] for token in some) / len(some) if probe.residual else None,
            "mean_logprob": sum(logprobs) / len(some),
            "min_logprob": min(logprobs),
            "mean_entropy": sum(entropies) / len(some),
            "max_entropy": max(entropies),
            "length": len(some),
        }
        model = probe.risk_model
        logit = model.intercept + sum(weight * values[part] for part, weight in model.weights.items())
        return 1 / (1 + exp(-(model.calibration.slope * logit + model.calibration.offset))), values

    for token in tokens:
        assert token["risk"] == pytest.approx(risk_of([token])[0])
    (span,) = guard["spans"]
    expected, values = risk_of(tokens[span["token_start"] : span["token_end"]])
    assert guard["risk"] == span["risk"] == pytest.approx(expected)
    assert {name: guard["signals"][name] for name in values} == pytest.approx(values)
    assert (guard["signals"]["residual"] is None) == (probe.residual is None)
    assert guard["out_of_domain"] is probe.domain.is_outside(values)


async def test_a_response_out_of_domain_is_said_to_be_and_scored_all_the_same(serve, parts):
    probe = replace(parts.artifact.probe, domain=Domain({"length": PartRange(0.0, 2.0, 4.0)}, cutoff=2.0))
    client = await serve(replace(parts, artifact=replace(parts.artifact, probe=probe)))
    for response, is_outside in (("ab", False), ("abcdefghijkl", True)):
        answer = (await client.post("/score", json={"prompt": QUESTION, "response": response})).json()
        guard = answer["guard"]
        assert guard["signals"]["length"] == len(response)
        assert guard["out_of_domain"] is is_outside
        assert (guard["status"], guard["action"]) == ("scored", "none")
        assert 0 < guard["risk"] < 1


async def test_without_a_score_nothing_is_said_of_the_domain(serve, parts):
    client = await serve(parts)
    guard = (await ask(client, guard={"policy": "off"}))["choices"][0]["guard"]
    assert guard["out_of_domain"] is None
    assert guard["signals"]["cett"] is None
