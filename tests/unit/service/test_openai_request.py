"""What OpenAI's requests become, and which of their fields are refused."""

import pytest
from pydantic import ValidationError

from service.answering.openai_form import read_request
from service.schemas.openai_request import ChatRequest, CompletionRequest
from service.schemas.options import SamplingOptions
from service.web.errors import ApiError

TALK = [{"role": "user", "content": "q"}]


def chat(**body):
    return ChatRequest.model_validate({"messages": TALK, **body})


def refuses(match, kind=ChatRequest, **body):
    asked = {"messages": TALK} if kind is ChatRequest else {"prompt": "q"}
    with pytest.raises(ValidationError, match=match) as failure:
        kind.model_validate({**asked, **body})
    return failure.value.errors()


def test_the_defaults_are_openais():
    asked = read_request(chat())
    assert asked.sampling.model_dump() == {
        "max_tokens": None,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": None,
        "stop": [],
        "n": 1,
    }
    assert (asked.stream, asked.stream_mode, asked.guard.policy, asked.raw) == (False, "immediate", "annotate", False)
    asked = read_request(CompletionRequest(prompt="q"))
    assert (asked.sampling.max_tokens, asked.sampling.temperature, asked.prompt, asked.raw) == (16, 1.0, "q", True)


def test_every_field_arrives():
    sent = {"temperature": 0, "top_p": 0.5, "top_k": 3, "n": 2, "seed": 7, "stop": ["a"]}
    more = {"model": "m", "stream": True, "stream_mode": "hold", "timeout_s": 3, "request_id": "r"}
    asked = read_request(chat(**sent, **more, max_completion_tokens=9, guard={"policy": "block", "threshold": 0.3}))
    assert asked.sampling == SamplingOptions(**{**sent, "temperature": 0.0}, max_tokens=9)
    assert {name: getattr(asked, name) for name in more} == more
    assert (asked.guard.policy, asked.guard.threshold) == ("block", 0.3)
    assert read_request(chat(max_tokens=9)).sampling.max_tokens == 9
    assert read_request(chat(max_tokens=9, max_completion_tokens=9)).sampling.max_tokens == 9
    assert read_request(chat(stop="a")).sampling.stop == ["a"]
    assert read_request(chat(top_k=-1)).sampling.top_k == 0


@pytest.mark.parametrize("policy", ["block", "abstain"])
def test_a_stream_that_may_be_withheld_is_held_unless_that_is_denied(policy):
    assert read_request(chat(stream=True, guard={"policy": policy})).stream_mode == "hold"
    with pytest.raises(ApiError, match="leak"):
        read_request(chat(stream=True, stream_mode="immediate", guard={"policy": policy}))


def test_messages_may_come_in_parts_and_developer_is_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = read_request(chat(messages=[{"role": "developer", "content": parts}, *TALK]))
    assert [(message.role, message.content) for message in asked.messages or []] == [("system", "ab"), ("user", "q")]


@pytest.mark.parametrize(
    "content", [[{"type": "image_url", "image_url": {"url": "hunter2"}}], [{"type": "text"}], ["hunter2"], [1]]
)
def test_what_is_not_text_is_refused(content):
    (problem,) = refuses("only parts of type", messages=[{"role": "user", "content": content}])
    assert problem["loc"] == ("messages", 0, "content")
    assert "hunter2" not in problem["msg"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("logit_bias", {"1": 2}),
        ("frequency_penalty", 0.1),
        ("presence_penalty", -1),
        ("top_logprobs", 1),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {}),
        ("reasoning_effort", "high"),
        ("store", True),
        ("service_tier", "flex"),
        ("web_search_options", {}),
    ],
)
def test_hazard_what_cannot_be_honoured_is_ignored(field, value):
    (problem,) = refuses("not supported by this server", **{field: value})
    assert problem["loc"] == (field,)


@pytest.mark.parametrize(
    ("field", "value"),
    [("best_of", 2), ("echo", True), ("suffix", "x"), ("logprobs", 1), ("prompt", ["a", "b"]), ("prompt", [1, 2])],
)
def test_hazard_what_cannot_be_honoured_of_a_completion_is_ignored(field, value):
    (problem,) = refuses("not supported", CompletionRequest, **{field: value})
    assert problem["loc"] == (field,)


@pytest.mark.parametrize("field", ["min_p", "chat_template", "chat_template_kwargs", "ignore_eos", "hunter2"])
def test_an_unknown_field_is_refused_without_repeating_it(field):
    (problem,) = refuses("unknown field", **{field: 1})
    assert field not in problem["msg"].split("there are")[0]


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_the_limits_are_those_of_generate(kind):
    """A field that is let through here and refused further in would be refused under another name."""
    own, inner = kind.model_json_schema()["properties"], SamplingOptions.model_json_schema()["properties"]
    for name in ("temperature", "top_p", "n", "seed", "max_tokens"):
        mine, theirs = (bounds(schema[name]) for schema in (own, inner))
        assert mine == theirs, name
    assert bounds(own["top_k"]) == {**bounds(inner["top_k"]), "minimum": -1}  # vLLM's word for the whole vocabulary
    (listed,) = [branch for branch in own["stop"]["anyOf"] if branch["type"] == "array"]
    assert (listed["maxItems"], listed["items"]) == (inner["stop"]["maxItems"], inner["stop"]["items"])


def bounds(schema):
    branches = [schema, *schema.get("anyOf", [])]
    return {key: branch[key] for branch in branches for key in branch if "inimum" in key or "aximum" in key}
