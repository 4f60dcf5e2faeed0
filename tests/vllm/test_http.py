"""The service over vLLM, the default model and its shipped probe, beside the service over the transformers engine."""

import pytest
import pytest_asyncio

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from service.engines.transformers_engine import TransformersEngine
from service.lifecycle import Parts
from tests.contract.switching import lasting
from tests.serving import read_events, serve_in_process
from tests.vllm.runs import QUESTIONS, default_folder
from tests.vllm.served import body, is_near, post

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def beside(artifact):
    """A client of the same service over the transformers engine."""
    other = TransformersEngine(default_folder(), model_name="tiny", dtype="float32", device="cpu")
    async with serve_in_process(Parts(other, artifact)) as client:
        yield client


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
