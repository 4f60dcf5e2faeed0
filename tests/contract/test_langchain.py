"""LangChain's ChatOpenAI in front of us: which guard fields survive its translation, and where they are found."""

import pytest

pytest.importorskip("langchain_openai", reason="pip install -e .[dev]")

import openai
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from tests.contract.openai_asking import LOW, generate, serving_openai
from tests.serving import QUESTION, make_parts


@pytest.fixture(scope="module")
def server():
    with serving_openai(make_parts()) as client:
        yield client


def chain(server, guard=None, **options):
    base = {"base_url": str(server.base_url), "api_key": "none", "model": "fake", "temperature": 0, "max_retries": 0}
    return ChatOpenAI(**base, include_response_headers=True, extra_body={"guard": guard or {}}, **options)


def test_an_answer_brings_its_risk_in_the_headers_and_that_of_its_tokens_in_the_logprobs(server):
    wanted = generate(server, guard={"policy": "flag", "return_tokens": True})
    message = chain(server, {"policy": "flag"}, logprobs=True).invoke(QUESTION)
    metadata = message.response_metadata
    assert message.content == wanted["choices"][0]["text"]
    assert float(metadata["headers"]["x-hguard-risk"]) == wanted["risk"]
    assert metadata["headers"]["x-hguard-action"] == "flagged"
    assert metadata["headers"]["x-hguard-probe"] == "fake@0"
    tokens = wanted["choices"][0]["guard"]["tokens"]
    assert [entry["risk"] for entry in metadata["logprobs"]["content"]] == [token["risk"] for token in tokens]
    assert metadata["finish_reason"] == "stop"
    assert metadata["id"].startswith("gen-")
    assert message.usage_metadata["total_tokens"] == wanted["usage"]["total_tokens"]


@pytest.mark.parametrize("is_asynchronous", [False, True])
async def test_a_stream_brings_the_risk_of_its_tokens_the_reason_and_the_counts(server, is_asynchronous):
    model = chain(server, logprobs=True, stream_usage=True)
    whole = model.invoke(QUESTION)
    chunks = [chunk async for chunk in model.astream(QUESTION)] if is_asynchronous else list(model.stream(QUESTION))
    message = chunks[0]
    for chunk in chunks[1:]:
        message += chunk
    assert message.content == whole.content == "The answer is Paris."
    assert message.usage_metadata == whole.usage_metadata
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["headers"]["x-hguard-probe"] == "fake@0"
    found, wanted = (one.response_metadata["logprobs"]["content"] for one in (message, whole))
    assert [entry["risk"] for entry in found] == [entry["risk"] for entry in wanted]


def test_a_blocked_answer_is_known_by_its_reason(server):
    model = chain(server, {"policy": "block", "threshold": LOW})
    message = model.invoke(QUESTION)
    assert (message.content, message.response_metadata["finish_reason"]) == ("", "content_filter")
    assert message.response_metadata["headers"]["x-hguard-action"] == "blocked"
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == ""
    assert [chunk.response_metadata.get("finish_reason") for chunk in chunks].count("content_filter") == 1


def test_a_conversation_goes_on_with_the_answer_that_was_got(server):
    model = chain(server)
    talk = [HumanMessage(QUESTION)]
    talk += [model.invoke(talk), HumanMessage("Why?")]
    assert model.invoke(talk).content == "The answer is Paris."


def test_tools_are_refused_in_words(server):
    with pytest.raises(openai.UnprocessableEntityError, match="tools: not supported"):
        chain(server).bind_tools([{"type": "function", "function": {"name": "f"}}]).invoke(QUESTION)


def test_hazard_a_failure_inside_a_stream_is_swallowed():
    parts = make_parts()
    with serving_openai(parts) as server:
        model = chain(server)
        parts.engine.fault = "crash"
        with pytest.raises(openai.APIError):
            list(model.stream(QUESTION))
