"""A conversation is read whole or not at all: what the served model cannot be asked is never left out quietly."""

import pytest

from service.schemas.chat_text import read_conversation

USER = {"role": "user", "content": "How high is it?"}


def read(*rows):
    return [(turn.role, turn.content) for turn in read_conversation(rows)]


def test_parts_names_and_developers_are_read():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]
    rows = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "Ann"}]
    assert read(*rows) == [("system", "Be brief."), ("user", "one two")]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"role": "system", "content": "Be brief."}],
        [USER, {"role": "assistant", "content": "It is"}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}],
            }
        ],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": ["text"]}],
        [{"role": "user", "content": None}],
        [{"content": "no role"}],
        [USER, {"role": "tool", "content": "3776", "tool_call_id": "1"}, USER],
        [USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, USER],
        [USER, {"role": "assistant", "content": "", "function_call": {"name": "f"}}, USER],
        [USER] * 257,
    ],
)
def test_a_conversation_with_anything_else_is_none(rows):
    assert read(*rows) == []
