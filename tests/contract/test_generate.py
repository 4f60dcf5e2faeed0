"""POST /generate on every engine, in process: its shape, and one set of numbers however it is asked for."""

import asyncio

import pytest

from tests.contract.asking import SAMPLED, ask, ask_stream, body, close
from tests.serving import QUESTION, read_events


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
    probe = parts.artifact.probe
    assert len(guard["explain"]) == min(10, len(probe.neurons))
    for token in guard["tokens"]:
        shares = [part["contribution"] for part in token["explain"]]
        assert len(shares) == min(5, len(probe.neurons))
        assert sorted(shares, key=abs, reverse=True) == shares
        if len(shares) == len(probe.neurons):
            assert sum(shares) + probe.intercept == pytest.approx(token["logit"], abs=1e-4)
    assert all(token["explain"] is None for token in (await ask(client))["choices"][0]["guard"]["tokens"])
    assert guard["logit"] == pytest.approx(sum(t["logit"] for t in guard["tokens"]) / len(guard["tokens"]))


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
