"""POST /generate and /score on every engine, in process: shapes, and one set of numbers however it is asked for."""

import asyncio
from dataclasses import replace
from math import exp

import pytest

from probes.domain import Domain, PartRange
from tests.serving import QUESTION, read_events

SAMPLED = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.95, "seed": 5}


def body(**changes):
    sampling = {"max_tokens": 12, **changes.pop("sampling", {})}
    guard = {"return_tokens": True, **changes.pop("guard", {})}
    return {"prompt": QUESTION, "sampling": sampling, "guard": guard, **changes}


async def ask(client, **changes):
    answer = await client.post("/generate", json=body(**changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask_stream(client, **changes):
    answer = await client.post("/generate", json=body(stream=True, **changes))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read_events(answer.text)


def close(found, wanted):
    """Equal in everything but the last digits of numbers, which may depend on the batch."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        return found == pytest.approx(wanted, abs=1e-4)
    return found == wanted


async def test_the_answer_has_the_shape_of_the_contract(serve, parts):
    client = await serve(parts)
    answer = await ask(client, guard={"explain": True})
    assert {"id", "model", "created", "usage", "risk", "choices", "timing"} <= answer.keys()
    assert answer["id"].startswith("gen-")
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert set(answer["timing"]) == {"queue_s", "prefill_s", "decode_s", "scoring_s"}
    (choice,) = answer["choices"]
    guard = choice["guard"]
    assert choice["finish_reason"] in ("stop", "length")
    assert guard["status"] == "scored"
    assert 0 < guard["risk"] < 1
    assert answer["risk"] == guard["risk"]
    assert (guard["action"], guard["alpha"], guard["threshold"]) == ("none", 1.0, 0.5)
    assert {"cett", "mean_logprob", "min_logprob", "mean_entropy"} <= guard["signals"].keys()
    assert guard["signals"]["used"] == list(parts.artifact.probe.risk_model.weights)
    assert guard["out_of_domain"] in (True, False)
    assert guard["probe"]["name"] == parts.artifact.probe.name
    assert len(guard["tokens"]) == answer["usage"]["completion_tokens"]
    assert "".join(token["text"] for token in guard["tokens"]) == choice["text"]
    assert [token["i"] for token in guard["tokens"]] == list(range(len(guard["tokens"])))
    assert all(token["is_answer"] and token["logprob"] <= 0 <= token["entropy"] for token in guard["tokens"])
    (span,) = guard["spans"]
    assert choice["text"][span["start"] : span["end"]] == span["text"] == choice["text"].strip()
    assert (span["token_start"], span["token_end"]) == (0, len(guard["tokens"]))
    assert len(guard["explain"]) == min(10, len(parts.artifact.probe.neurons))
    assert guard["logit"] == pytest.approx(sum(t["logit"] for t in guard["tokens"]) / len(guard["tokens"]))


@pytest.mark.parametrize("sampling", [{}, SAMPLED, {"stop": ["s", "\ufffd"]}, {"max_tokens": 1}])
async def test_a_stream_says_exactly_what_the_json_says(serve, parts, sampling):
    client = await serve(parts)
    answer = await ask(client, sampling=sampling)
    events = await ask_stream(client, sampling=sampling)
    (choice,) = answer["choices"]
    names = [name for name, _, _ in events]
    assert names == [
        "start",
        *["token"] * len(choice["guard"]["tokens"]),
        *["span"] * len(choice["guard"]["spans"]),
        "guard",
        "done",
    ]
    tokens = [data for name, _, data in events if name == "token"]
    assert [at for name, at, _ in events if name == "token"] == [str(token["i"]) for token in tokens]
    for streamed, token in zip(tokens, choice["guard"]["tokens"], strict=True):
        assert streamed.pop("index") == 0
        assert streamed.pop("is_answer") is None
        assert token.pop("is_answer") is True
        assert close(streamed, token)
    guard = events[-2][2]
    assert guard["risk"] == pytest.approx(answer["risk"], abs=1e-5) if answer["risk"] else guard["risk"] is None
    done = events[-1][2]
    assert (done["choices"][0]["text"], done["choices"][0]["finish_reason"]) == (
        choice["text"],
        choice["finish_reason"],
    )
    assert "".join(token["text"] for token in tokens) == choice["text"]
    assert done["usage"] == answer["usage"]


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


async def test_a_raw_prompt_is_not_dressed_in_the_chat_template(serve, parts):
    client = await serve(parts)
    raw, chat = await ask(client, raw=True), await ask(client)
    assert raw["usage"]["prompt_tokens"] == len(QUESTION) < chat["usage"]["prompt_tokens"]
    messages = body()
    messages["messages"] = [{"role": "user", "content": messages.pop("prompt")}]
    answer = await client.post("/generate", json=messages)
    assert answer.json()["usage"] == chat["usage"]


async def test_choices_are_the_single_answers_of_seed_plus_index(serve, parts):
    client = await serve(parts)
    several = await ask(client, sampling={**SAMPLED, "n": 3})
    for index, choice in enumerate(several["choices"]):
        single = await ask(client, sampling={**SAMPLED, "seed": SAMPLED["seed"] + index})
        assert choice["index"] == index
        assert choice["text"] == single["choices"][0]["text"]
        assert close(choice["guard"], single["choices"][0]["guard"])
    assert several["risk"] == several["choices"][0]["guard"]["risk"]


async def test_choices_share_a_stream_under_their_index(serve, parts):
    client = await serve(parts)
    sampling = {**SAMPLED, "n": 3}
    answer, events = await ask(client, sampling=sampling), await ask_stream(client, sampling=sampling)
    for choice in answer["choices"]:
        own = [(name, data) for name, _, data in events if data.get("index") == choice["index"]]
        assert "".join(data["text"] for name, data in own if name == "token") == choice["text"]
        assert [name for name, _ in own if name != "token"] == [*["span"] * len(choice["guard"]["spans"]), "guard"]
    assert [name for name, _, _ in events if name in ("start", "done")] == ["start", "done"]


async def test_eight_at_once_get_what_each_gets_alone(serve, parts):
    client = await serve(parts)
    bodies = [
        {
            "sampling": {**SAMPLED, "seed": at, "max_tokens": 4 + at},
            "guard": {"alpha": (1.0, 0.0, 2.5)[at % 3], "explain": at % 2 == 0},
        }
        for at in range(8)
    ]
    alone = [await ask(client, **changes) for changes in bodies]
    together = await asyncio.gather(*(ask(client, **changes) for changes in bodies))
    for one, other in zip(alone, together, strict=True):
        assert one["choices"][0]["text"] == other["choices"][0]["text"]
        assert close(other["choices"], one["choices"])


async def test_policy_off_is_disabled_with_no_risk(serve, parts):
    client = await serve(parts)
    plain, guarded = await ask(client, guard={"policy": "off"}), await ask(client)
    guard = plain["choices"][0]["guard"]
    assert (plain["risk"], guard["risk"], guard["logit"], guard["status"]) == (None, None, None, "disabled")
    assert plain["choices"][0]["text"] == guarded["choices"][0]["text"]
    assert [token["risk"] for token in guard["tokens"]] == [None] * len(guard["tokens"])
    names = [name for name, _, _ in await ask_stream(client, guard={"policy": "off"})]
    assert names == ["start", *["token"] * len(guard["tokens"]), "guard", "done"]


async def test_alpha_is_recorded(serve, parts):
    client = await serve(parts)
    assert (await ask(client, guard={"alpha": 0.25}))["choices"][0]["guard"]["alpha"] == 0.25


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_the_request(serve, parts, stream):
    client = await serve(parts)
    parts.engine.step_seconds = 0.02  # of the fake; a real model is slow enough for a microsecond
    answer = await client.post("/generate", json=body(timeout_s=1e-6, stream=stream))
    if stream:
        events = read_events(answer.text)
        assert [name for name, _, _ in events if name in ("done", "error")] == ["error"]
        error = events[-1][2]["error"]
    else:
        assert answer.status_code == 504
        error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("timeout", "timeout_error")
    assert error["request_id"] == answer.headers["x-request-id"]
    parts.engine.step_seconds = 0
    await ask(client)
