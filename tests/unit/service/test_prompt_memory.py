"""What is remembered of a call until its answer comes has a bound in bytes and in time, and nothing goes unnoticed."""

import pytest

from service.answering.prompt_memory import ENTRY_BYTES, PromptMemory
from service.schemas.prompt import Message


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def asked(text):
    return (Message(role="user", content=text),)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gone():
    return []


@pytest.fixture
def memory(clock, gone):
    return PromptMemory(limit_bytes=20 * ENTRY_BYTES, seconds=60.0, on_unread=gone.append, clock=clock)


def test_a_stream_that_is_judged_again_and_again_finds_its_prompt_each_time(memory):
    memory.keep("a", asked("one"))
    assert [memory.recall("a") for _ in range(3)] == [asked("one")] * 3
    assert memory.recall("b") is None


def test_a_prompt_that_is_too_old_is_not_taken_for_the_answers(memory, clock, gone):
    memory.keep("a", asked("one"))
    clock.now = 59.9
    memory.keep("b", asked("two"))
    clock.now = 60.0
    assert (memory.recall("a"), memory.recall("b")) == (None, asked("two"))
    assert gone == ["expired"]


def test_only_prompts_that_nobody_asked_for_are_reported(memory, clock, gone):
    memory.keep("judged", asked("one"))
    memory.keep("not judged", asked("two"))
    memory.recall("judged")
    clock.now = 100.0
    memory.tidy()
    assert (gone, len(memory), memory.n_bytes) == (["expired"], 0, 0)


def test_ten_thousand_calls_stay_under_the_limit_and_the_newest_are_there(memory, gone):
    for at in range(10_000):
        memory.keep(str(at), asked("x" * (at % 500)))
        assert memory.n_bytes <= 20 * ENTRY_BYTES
    assert memory.recall("9999") == asked("x" * 499)
    assert memory.recall("0") is None
    assert len(gone) == 10_000 - len(memory)
    assert set(gone) == {"evicted"}


def test_a_prompt_that_is_larger_than_the_memory_is_not_kept_and_the_memory_lives_on(memory, gone):
    memory.keep("small", asked("one"))
    memory.keep("large", asked("x" * 30 * ENTRY_BYTES))
    assert (memory.recall("large"), len(memory), memory.n_bytes) == (None, 0, 0)
    assert gone == ["evicted", "evicted"]
    memory.keep("small", asked("one"))
    assert memory.recall("small") == asked("one")


def test_a_call_that_asks_anew_is_judged_by_its_last_prompt(memory, clock, gone):
    memory.keep("a", asked("one"))
    held = memory.n_bytes
    clock.now = 50.0
    memory.keep("a", asked("two"))
    assert memory.n_bytes == held
    clock.now = 80.0
    assert memory.recall("a") == asked("two")
    assert gone == []
