"""The gate and the queue: never too many at once, callers in turn, and every way out gives the place back."""

import asyncio

import pytest

from service.admission.gate import RETRY_LIMIT_SECONDS
from service.web.errors import ApiError
from tests.unit.service.admitting import Running, caller, make, read, settle


async def test_no_more_run_than_the_gate_lets_in():
    admission = make()
    running = Running(admission)
    tasks = [running.start(at) for at in range(6)]
    await settle()
    assert running.order == [0, 1]
    assert (read(admission, "requests_running"), read(admission, "requests_waiting")) == (2, 4)
    assert read(admission, "queue_capacity") == 8
    await running.end(1)
    assert running.order == [0, 1, 2]
    await running.end(0, 2, 3, 4, 5)
    await asyncio.gather(*tasks)
    assert (read(admission, "requests_running"), read(admission, "requests_waiting")) == (0, 0)
    assert read(admission, "queue_duration_seconds_count") == 6
    assert admission.is_empty


async def test_callers_take_turns():
    running = Running(make(max_sequences=1, queue_size=20))
    tasks = [running.start(f"a{at}", by="a") for at in range(5)]
    tasks += [running.start(f"b{at}", by="b") for at in range(2)]
    tasks += [running.start("c0", by="c")]
    for _ in range(8):
        await settle()
        await running.end(running.order[-1])
    assert running.order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4"]
    await asyncio.gather(*tasks)


async def test_a_caller_who_comes_back_goes_to_the_end():
    running = Running(make(max_sequences=1))
    running.start("a0", by="a")
    running.start("a1", by="a")
    running.start("b0", by="b")
    await settle()
    await running.end("a0")
    running.start("a2", by="a")
    running.start("c0", by="c")
    await running.end("a1", "b0", "a2", "c0")
    assert running.order == ["a0", "a1", "b0", "a2", "c0"]


async def test_choices_count_each_and_a_wide_request_is_not_overtaken_for_ever():
    running = Running(make(max_sequences=3))
    running.start("one")
    running.start("wide", sequences=3)
    running.start("late", by="b")
    await settle()
    assert running.order == ["one"]
    await running.end("one")
    assert running.order == ["one", "wide"]
    await running.end("wide")
    assert running.order == ["one", "wide", "late"]
    await running.end("late")


async def test_a_request_wider_than_the_gate_takes_all_of_it():
    running = Running(make(max_sequences=2))
    running.start("wide", sequences=8)
    running.start("next")
    await settle()
    assert running.order == ["wide"]
    await running.end("wide", "next")
    assert running.order == ["wide", "next"]


async def test_a_full_queue_refuses_before_any_work():
    admission = make(max_sequences=1, queue_size=2)
    running = Running(admission)
    tasks = [running.start(at) for at in range(3)]
    with pytest.raises(ApiError) as found:
        admission.open(caller("b"))
    assert (found.value.status, found.value.code) == (429, "queue_full")
    assert 1 <= found.value.retry_after <= RETRY_LIMIT_SECONDS
    assert read(admission, "admission_rejections_total", reason="queue_full") == 1
    await settle()
    await running.end(0)
    admission.open(caller("b")).close()
    await running.end(1, 2)
    await asyncio.gather(*tasks)


async def test_hazard_requests_that_are_being_tokenised_are_not_counted():
    admission = make(max_sequences=1, queue_size=1)
    first, second = admission.open(caller()), admission.open(caller())
    with pytest.raises(ApiError):
        admission.open(caller())
    first.close()
    admission.open(caller()).close()
    second.close()


async def test_the_queue_is_bounded_by_tokens_too():
    admission = make(max_sequences=1, queue_tokens=100)
    running = Running(admission)
    tasks = [running.start("runs", tokens=5000), running.start("waits", tokens=90)]
    with pytest.raises(ApiError, match="too many requests") as found:
        running.start("too much", tokens=11)
    assert found.value.code == "queue_full"
    tasks.append(running.start("fits", tokens=10))
    with pytest.raises(ApiError):
        admission.open(caller())  # full to the last token: refused before its size is known
    await running.end("runs", "waits", "fits")
    await asyncio.gather(*tasks)
    assert admission.is_empty


async def test_hazard_a_request_larger_than_the_token_bound_can_never_wait():
    running = Running(make(max_sequences=1, queue_tokens=100))
    tasks = [running.start("runs"), running.start("large", tokens=500)]
    await settle()
    await running.end("runs", "large")
    await asyncio.gather(*tasks)
    assert running.order == ["runs", "large"]


async def test_without_a_queue_only_free_places_are_given():
    admission = make(max_sequences=2, queue_size=0)
    running = Running(admission)
    tasks = [running.start("one"), running.start("two")]
    with pytest.raises(ApiError):
        admission.open(caller())
    await settle()
    await running.end("one")
    with pytest.raises(ApiError):
        running.start("wide", sequences=2)
    await running.end("two")
    await asyncio.gather(*tasks)
    assert admission.is_empty
