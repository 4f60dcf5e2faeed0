"""What a user runs: `python -m service` with its defaults, the real default model and the shipped probe."""

import asyncio
import math
import os
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from tests.serving import read_events

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France? Respond with the answer only, without any explanation."


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("HGUARD_") or key == "HGUARD_CACHE"
    }
    environment |= {"HGUARD_PORT": str(port), "PYTHONPATH": os.getcwd(), "HGUARD_DEVICE": "cpu"}
    running = subprocess.Popen([sys.executable, "-m", "service"], env=environment, cwd=tmp_path_factory.mktemp("cwd"))
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert running.poll() is None, "the service ended instead of starting"
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        deadline = time.monotonic() + 300
        while not is_ready():
            assert time.monotonic() < deadline, "not ready after five minutes"
            time.sleep(0.2)
        yield url
    finally:
        running.terminate()
        assert running.wait(60) == 0


async def post(address, path, body):
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_numbers_of_a_scored_answer_agree_with_each_other(address):
    answer = await post(address, "/generate", {"prompt": QUESTION, "guard": {"return_tokens": True, "explain": True}})
    choice = answer["choices"][0]
    assert "Paris" in choice["text"]
    guard = choice["guard"]
    assert guard["status"] == "scored"
    assert answer["risk"] == guard["risk"]
    assert 0 < guard["risk"] < 1
    span = guard["spans"][0]
    assert choice["text"][span["start"] : span["end"]] == span["text"]
    assert "".join(token["text"] for token in guard["tokens"]) == choice["text"]
    answer_logits = [token["logit"] for token in guard["tokens"] if token["is_answer"]]
    assert math.isclose(sum(answer_logits) / len(answer_logits), guard["logit"], abs_tol=1e-4)
    assert guard["explain"]
    assert guard["out_of_domain"] is False
    assert {"cett", "residual", "min_logprob"} == set(guard["signals"]["used"])


async def test_a_text_of_another_kind_is_scored_and_said_to_be_out_of_domain(address):
    code = "for (int i = 0; i < n; i++) {\n    sum += a[i] * b[i];\n}\nreturn sum;"
    guard = (await post(address, "/score", {"prompt": QUESTION, "response": code}))["guard"]
    assert (guard["status"], guard["out_of_domain"]) == ("scored", True)


async def test_every_budget_of_the_probe_can_be_asked_for(address):
    async with httpx.AsyncClient(base_url=address) as client:
        active = (await client.get("/probes")).json()["probes"][0]
    assert [budget["fpr"] for budget in active["budgets"]] == [0.01, 0.05, 0.1, 0.2]
    for budget in active["budgets"]:
        body = {"prompt": QUESTION, "response": "Paris", "guard": {"threshold": f"fpr:{budget['fpr']}"}}
        assert (await post(address, "/score", body))["guard"]["threshold"] == budget["threshold"]


async def test_stream_and_score_give_the_risk_of_the_json_answer(address):
    body = {"prompt": QUESTION, "guard": {"return_tokens": True}}
    answer = await post(address, "/generate", body)
    choice = answer["choices"][0]
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        events = read_events((await client.post("/generate", json={**body, "stream": True})).text)
    names = [name for name, _, _ in events]
    assert names[0] == "start"
    assert names[-2:] == ["guard", "done"]
    streamed = [data for name, _, data in events if name == "token"]
    assert [token["id"] for token in streamed] == [token["id"] for token in choice["guard"]["tokens"]]
    assert events[-2][2]["logit"] == pytest.approx(choice["guard"]["logit"], abs=1e-4)
    ids = [token["id"] for token in choice["guard"]["tokens"]]
    scored = await post(address, "/score", {"prompt": QUESTION, "response_token_ids": ids})
    assert scored["guard"]["logit"] == pytest.approx(choice["guard"]["logit"], abs=1e-4)


async def test_mixed_alphas_in_one_batch_do_not_leak_into_each_other(address):
    alphas = [1.0, 0.0, 0.5, 3.0, 1.0, 0.0, 1.0, 2.0]
    bodies = [
        {"prompt": QUESTION, "sampling": {"max_tokens": 12}, "guard": {"alpha": alpha, "return_tokens": True}}
        for alpha in alphas
    ]
    together = await asyncio.gather(*(post(address, "/generate", body) for body in bodies))
    for body, mixed in zip(bodies, together, strict=True):
        alone = await post(address, "/generate", body)
        assert mixed["choices"][0]["text"] == alone["choices"][0]["text"]
        assert mixed["choices"][0]["guard"]["logit"] == pytest.approx(alone["choices"][0]["guard"]["logit"], abs=1e-4)


async def test_probes_lists_the_shipped_one_with_its_evidence(address):
    async with httpx.AsyncClient(base_url=address) as client:
        probes = (await client.get("/probes")).json()
    assert "smollm2-135m-instruct" in str(probes)
    assert "auroc" in str(probes)


async def test_hazard_openais_clients_get_another_answer_or_risk_than_generate(address):
    talk = [{"role": "user", "content": QUESTION}]
    asked = {"messages": talk, "sampling": {"max_tokens": 24}, "guard": {"return_tokens": True}}
    wanted = (await post(address, "/generate", asked))["choices"][0]
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=120) as client:
        (model,) = (await client.models.list()).data
        greedy = {"model": model.id, "messages": talk, "temperature": 0, "max_tokens": 24, "logprobs": True}
        (whole,) = (await client.chat.completions.create(**greedy)).choices
        chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(**greedy, stream=True)]
    assert "Paris" in wanted["text"]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content == wanted["text"]
    assert chunks[-1].finish_reason == whole.finish_reason == wanted["finish_reason"]
    risk, token_risks = wanted["guard"]["risk"], [token["risk"] for token in wanted["guard"]["tokens"]]
    for guard in (whole.guard, chunks[-1].guard, chunks[-2].delta.provider_specific_fields["guard"]):
        assert guard["status"] == "scored"
        assert guard["risk"] == pytest.approx(risk, abs=1e-4)
    streamed = [entry.risk for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
    assert streamed == pytest.approx(token_risks, abs=1e-4)
    assert [entry.risk for entry in whole.logprobs.content] == pytest.approx(token_risks, abs=1e-4)
