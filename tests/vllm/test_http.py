"""The service over vLLM, the default model and its shipped probe, beside the service over the transformers engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import pytest_asyncio
import uvicorn

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from probes.registry import find_probe
from service.app import create_app
from service.engines.transformers_engine import TransformersEngine
from service.lifecycle import Parts
from service.settings import Settings
from tests.contract.test_activate import check_switches, lasting
from tests.probe_library import SETTINGS, turned, write_library
from tests.serving import read_events, serve_in_process, wait_until
from tests.vllm.runs import QUESTIONS, TOLERANCE, default_folder

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

RISK_TOLERANCE = 1e-3


class Started:
    """An engine of the shelf's, which the application neither starts nor closes."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def start(self):
        pass

    async def close(self):
        pass


@asynccontextmanager
async def serve_here(parts: Parts, **settings) -> AsyncIterator[str]:
    """A uvicorn server on loopback in this event loop, which is vLLM's; yields its address."""
    app = create_app(Settings(engine="fake", **settings), parts)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    running = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started or running.done(), 60)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def engine(shelf):
    engine = await shelf.get(default_folder(), arguments={"block_size": 32})
    engine._banks.current = None  # the shelf's own heads are for nobody here, and would keep one of the two banks
    return engine


@pytest.fixture(scope="module")
def artifact(engine):
    return find_probe("default", engine.fingerprint())


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def address(engine, artifact, tmp_path_factory):
    folder = write_library(tmp_path_factory.mktemp("probes"), artifact, turned(artifact, "turned"))
    async with serve_here(Parts(Started(engine), artifact), probes_dir=folder, **SETTINGS) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def client(address):
    async with httpx.AsyncClient(base_url=address, timeout=300) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beside(artifact):
    """A client of the same service over the transformers engine."""
    other = TransformersEngine(default_folder(), model_name="tiny", dtype="float32", device="cpu")
    async with serve_in_process(Parts(other, artifact)) as client:
        yield client


def body(question=QUESTIONS[0], *, sampling=None, guard=None, **more):
    return {
        "prompt": question,
        "sampling": {"max_tokens": 24, **(sampling or {})},
        "guard": {"return_tokens": True, **(guard or {})},
        **more,
    }


async def post(client, path, sent):
    answer = await client.post(path, json=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_near(found, wanted, name=""):
    """Equal but for rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(is_near(found[key], wanted[key], key) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(is_near(a, b, name) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, float):
        return found == pytest.approx(wanted, abs=RISK_TOLERANCE if "risk" in name else TOLERANCE)
    return found == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guard": {"explain": True}},
        {"guard": {"alpha": 0.5, "explain": True}},
        {"guard": {"alpha": 0.0, "policy": "flag", "threshold": 0.01}},
        {"guard": {"policy": "suppress", "threshold": 1e-6}},
        {"guard": {"policy": "off"}},
        {"guard": {"locator": "response"}},
        {"sampling": {"stop": ["is", "George"]}},
        {"sampling": {"max_tokens": 1}},
    ],
    ids=str,
)
async def test_hazard_the_engines_answer_differently(client, beside, changes):
    for question in QUESTIONS[:3]:
        sent = body(question, **changes)
        found, wanted = [lasting(await post(one, "/generate", sent)) for one in (client, beside)]
        assert is_near(found, wanted), (found, wanted)
        guard = found["choices"][0]["guard"]
        assert (guard["status"] == "scored") == (guard["risk"] is not None)


async def test_the_shipped_probe_scores_an_answer_span(client):
    found = await post(client, "/generate", body(guard={"explain": True}))
    (choice,) = found["choices"]
    assert "Paris" in choice["text"]
    assert choice["guard"]["status"] == "scored"
    assert found["risk"] == choice["guard"]["risk"]
    span = choice["guard"]["spans"][0]
    assert choice["text"][span["start"] : span["end"]] == span["text"]
    assert choice["guard"]["explain"]


@pytest.mark.parametrize("sampling", [{}, {"stop": ["is"]}, {"temperature": 1.0, "seed": 4}], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
async def test_hazard_a_stream_says_something_else_than_the_json(client, sampling, alpha):
    sent = body(QUESTIONS[2], sampling=sampling, guard={"alpha": alpha})
    found = await post(client, "/generate", sent)
    events = read_events((await client.post("/generate", json={**sent, "stream": True})).text)
    guard = found["choices"][0]["guard"]
    names = [name for name, _, _ in events]
    assert names == ["start", *["token"] * len(guard["tokens"]), *["span"] * len(guard["spans"]), "guard", "done"]
    streamed = [data for name, _, data in events if name == "token"]
    for token, wanted in zip(streamed, guard["tokens"], strict=True):
        assert is_near({**token, "is_answer": None}, {**wanted, "is_answer": None, "index": 0})
    finish = found["choices"][0]["finish_reason"]
    assert is_near(events[-2][2], {**guard, "index": 0, "finish_reason": finish, "tokens": events[-2][2]["tokens"]})
    assert events[-1][2]["choices"][0]["text"] == found["choices"][0]["text"]


async def test_hazard_choices_get_rows_of_each_other(client, beside):
    """Each choice has the numbers that one teacher-forced pass of transformers gives its own tokens."""
    sampling = {"temperature": 1.0, "n": 2, "seed": 7}
    found = await post(client, "/generate", body(QUESTIONS[2], sampling=sampling, guard={"explain": True}))
    texts = [choice["text"] for choice in found["choices"]]
    assert len(set(texts)) == 2
    for choice in found["choices"]:
        ids = [token["id"] for token in choice["guard"]["tokens"]]
        sent = {"prompt": QUESTIONS[2], "response_token_ids": ids}
        scored = await post(beside, "/score", {**sent, "guard": {"return_tokens": True, "explain": True}})
        assert scored["text"] == choice["text"]
        assert is_near(choice["guard"], scored["guard"])
        alone = body(QUESTIONS[2], sampling={"temperature": 1.0, "seed": 7 + choice["index"]})
        assert (await post(client, "/generate", alone))["choices"][0]["text"] == choice["text"]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
async def test_hazard_a_response_that_exists_is_scored_otherwise(client, beside, alpha):
    sent = {
        "prompt": QUESTIONS[1],
        "response": "Middlemarch was written by George Eliot, in 1871.",
        "guard": {"return_tokens": True, "explain": True, "alpha": alpha},
    }
    found, wanted = [lasting(await post(one, "/score", sent)) for one in (client, beside)]
    assert is_near(found, wanted), (found, wanted)
    made = await post(client, "/generate", body(QUESTIONS[1], guard={"alpha": alpha}))
    ids = [token["id"] for token in made["choices"][0]["guard"]["tokens"]]
    again = {"prompt": QUESTIONS[1], "response_token_ids": ids, "guard": {"return_tokens": True, "alpha": alpha}}
    assert is_near((await post(client, "/score", again))["guard"], made["choices"][0]["guard"])


@pytest.mark.parametrize("stream", [True, False])
async def test_hazard_a_client_that_leaves_goes_on_generating(address, engine, client, stream):
    sent = body(QUESTIONS[5], sampling={"max_tokens": 1500, "n": 2, "temperature": 1.0}, stream=stream)

    async def leave():
        async with httpx.AsyncClient(base_url=address, timeout=300) as leaving:
            if stream:
                async with leaving.stream("POST", "/generate", json=sent) as answer:
                    lines = answer.aiter_lines()
                    while not (await anext(lines)).startswith("event: token"):
                        pass
                    await asyncio.Event().wait()
            await leaving.post("/generate", json=sent)

    leaving = asyncio.create_task(leave())
    await wait_until(lambda: engine.running == 2, 60)
    await asyncio.sleep(0.5)
    assert engine.running == 2
    leaving.cancel()
    await wait_until(lambda: engine.running == 0)
    for _ in range(100):
        metrics = (await client.get("/metrics")).text
        if "hguard_requests_running 0.0" in metrics:
            break
        await asyncio.sleep(0.02)
    assert "hguard_requests_running 0.0" in metrics
    assert f"hguard_client_disconnects_total {1.0 if stream else 2.0}" in metrics
    assert (await post(client, "/generate", body()))["choices"][0]["guard"]["status"] == "scored"


async def test_hazard_requests_are_answered_before_the_golden_trace(engine, artifact):
    audited, seen = [], []
    started = Started(engine)
    audit = engine.audit

    async def watched(prompt_ids, response_ids, **options):
        seen.append(app.state.lifecycle.describe())
        audited.append((prompt_ids, response_ids))
        return await audit(prompt_ids, response_ids, **options)

    started.audit = watched
    app = create_app(Settings(engine="fake"), Parts(started, artifact))
    async with app.router.lifespan_context(app):
        assert app.state.lifecycle.describe() == []
    golden = artifact.golden
    assert audited == list(zip(golden.prompt_ids, golden.response_ids, strict=True))
    assert all(any("golden_trace" in reason for reason in reasons) for reasons in seen)

    shifted = replace(golden, scores=tuple(np.roll(scores, 1) for scores in golden.scores))
    async with serve_in_process(Parts(Started(engine), replace(artifact, golden=shifted))) as client:
        assert "standard deviations" in (await client.get("/readyz")).text
        assert (await client.post("/generate", json=body())).status_code == 503


async def test_hazard_a_response_mixes_two_probes(client, artifact):
    await check_switches(client, artifact, turned(artifact, "turned"), is_near)
