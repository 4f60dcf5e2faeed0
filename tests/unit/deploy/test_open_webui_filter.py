"""deploy/integrations/open_webui_filter.py, loaded from its file as Open WebUI does and driven without it."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from tests.e2e.open_webui import FILTER

SECRET = "Paris"
REPEATS = {
    "logprobs": {"content": [{"token": SECRET, "logprob": -0.1, "bytes": list(SECRET.encode()), "top_logprobs": []}]},
    "text": SECRET,
    "message": {"role": "assistant", "content": SECRET},
    "token_ids": [SECRET],
}


@pytest.fixture
def guard(monkeypatch):
    """The filter under policy block; no hguard answers, so it withholds unless it may fail open."""
    spec = importlib.util.spec_from_file_location("open_webui_filter", FILTER)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    made = module.Filter()
    made.valves = made.Valves(url="http://127.0.0.1:9", timeout_s=1)
    return made


def chunk(content, finish_reason=None, **more):
    delta = {"role": "assistant", "content": content, "reasoning_content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **REPEATS, **more}
    return {"id": "one", "object": "chat.completion.chunk", "choices": [choice]}


async def streamed(guard, *chunks):
    request = SimpleNamespace(state=SimpleNamespace())
    return [await guard.stream(each, request) for each in chunks]


async def test_hazard_the_held_text_passes_beside_the_delta(guard):
    passed = await streamed(guard, chunk("The answer is "), chunk(SECRET), chunk("", "stop"))
    assert SECRET not in json.dumps(passed)
    assert "answer is" not in json.dumps(passed)
    assert [set(each["choices"][0]) for each in passed] == [{"index", "delta", "finish_reason"}] * 3
    last = passed[-1]["choices"][0]
    assert (last["finish_reason"], last["delta"]["content"]) == ("content_filter", guard.valves.withheld)


async def test_each_choice_gets_its_own_text_once_it_may_be_shown(guard):
    guard.valves.on_error = "fail_open"
    made = [chunk(text, end, index=at) for end in (None, "stop") for at, text in enumerate(("one ", "two "))]
    passed = await streamed(guard, *made)
    choices = [each["choices"][0] for each in passed]
    assert [(choice["index"], choice["delta"].get("content"), choice["finish_reason"]) for choice in choices] == [
        (0, None, None),
        (1, None, None),
        (0, "one one ", "stop"),
        (1, "two two ", "stop"),
    ]


async def test_calls_of_tools_and_chunks_without_a_choice_pass(guard):
    calls = [{"index": 0, "id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    made = chunk(None, "tool_calls", delta={"role": "assistant", "tool_calls": calls})
    usage = {"id": "one", "choices": [], "usage": {"total_tokens": 3}}
    passed = await streamed(guard, made, usage)
    delta = {"role": "assistant", "tool_calls": calls}
    assert passed == [{**made, "choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}, usage]
