"""Tickets that end: deadlines, clients that leave, rates that are used up, a gate that closes."""

import asyncio

import pytest

from service.admission.gate import RETRY_LIMIT_SECONDS
from service.web.errors import ApiError
from tests.unit.service.admitting import Running, caller, make, read, refusal, settle


async def test_a_deadline_counts_the_waiting_and_gives_the_place_back():
    admission = make(max_sequences=1)
    running = Running(admission)
    first, late = running.start("first"), running.start("late", timeout=0.02)
    last = running.start("last")
    error = await refusal(late)
    assert (error.status, error.code) == (504, "timeout")
    assert read(admission, "requests_waiting") == 1
    await running.end("first", "last")
    await asyncio.gather(first, last)
    assert running.order == ["first", "last"]


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_client_that_leaves_gives_its_place_back(is_running):
    admission = make(max_sequences=1)
    running = Running(admission)
    tasks = [running.start(at) for at in range(3)]
    await settle()
    leaver = tasks.pop(0 if is_running else 1)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    await settle()
    await running.end(0, 1, 2)
    await asyncio.gather(*tasks)
    assert running.order == ([0, 1, 2] if is_running else [0, 2])
    assert (read(admission, "requests_running"), read(admission, "requests_waiting")) == (0, 0)


async def test_hazard_the_turn_comes_in_the_moment_in_which_the_client_leaves():
    admission = make(max_sequences=1)
    running = Running(admission)
    first, second, third = (running.start(at) for at in range(3))
    await settle()
    running.ends[0].set()
    await asyncio.sleep(0)  # the first one's place is on its way to the second
    second.cancel()
    await settle()
    assert running.order[-1] == 2
    await running.end(2)
    await asyncio.gather(first, third)
    assert admission.is_empty


async def test_hazard_a_stream_that_joined_and_never_began_keeps_its_place():
    admission = make(max_sequences=1)
    ticket = admission.open(caller())
    ticket.join(1, 1)
    assert admission.n_running == 1
    ticket.close()
    ticket.close()
    assert admission.n_running == 0
    assert admission.is_empty


async def test_work_that_fails_gives_its_place_back_and_fails_as_itself():
    admission = make(max_sequences=1)
    ticket = admission.open(caller())
    ticket.join(1, 1)

    async def work():
        raise TimeoutError("of the work, not of ours")

    with pytest.raises(TimeoutError, match="of the work"):
        await ticket.run(work)
    assert admission.n_running == 0


async def test_rate_limits_are_by_key_and_say_when():
    admission = make()
    limited = caller("a", requests_per_minute=1)
    admission.open(limited).close()
    with pytest.raises(ApiError) as found:
        admission.open(limited)
    assert (found.value.status, found.value.code) == (429, "rate_limited")
    assert 59 <= found.value.retry_after <= 60
    admission.open(caller("b", requests_per_minute=1)).close()
    assert read(admission, "admission_rejections_total", reason="rate_limited") == 1


async def test_tokens_a_minute_count_the_longest_response():
    admission = make()
    limited = caller("a", tokens_per_minute=100)
    ticket = admission.open(limited)
    ticket.join(1, 100)
    ticket.close()
    ticket = admission.open(limited)
    with pytest.raises(ApiError) as found:
        ticket.join(1, 50)
    assert (found.value.code, found.value.retry_after) == ("rate_limited", 30)
    ticket.close()
    assert admission.is_empty
    assert admission.n_running == 0


async def test_a_closed_gate_says_draining_and_goes_on_with_those_inside():
    admission = make(max_sequences=1)
    running = Running(admission)
    tasks = [running.start("runs"), running.start("waits")]
    admission.is_closed = True
    with pytest.raises(ApiError) as found:
        admission.open(caller())
    assert (found.value.status, found.value.code) == (503, "draining")
    await settle()
    await running.end("runs", "waits")
    await asyncio.gather(*tasks)
    assert admission.is_empty


async def test_expelled_requests_end_in_words_wherever_they_are():
    admission = make(max_sequences=1)
    running = Running(admission)
    tasks = [running.start("runs"), running.start("waits")]
    preparing = admission.open(caller())
    await settle()
    admission.expel()
    preparing.join(1, 1)

    async def never():
        await asyncio.Event().wait()

    for work in (*tasks, asyncio.ensure_future(preparing.run(never))):
        error = await refusal(asyncio.wait_for(work, 5))
        assert (error.status, error.code) == (503, "draining")
    preparing.close()
    assert admission.is_empty


async def test_retry_after_follows_the_recent_rate():
    now = 1000.0
    admission = make(max_sequences=1, queue_size=100, clock=lambda: now)
    running = Running(admission)
    tasks = [running.start(at) for at in range(41)]
    await settle()
    assert admission.retry_after() == 1  # nothing is known yet
    now = 1004.0
    assert admission.retry_after() == 4  # longer than this, as none was done in it
    for at in range(8):
        now += 0.5
        await running.end(at)
    assert admission.retry_after() == 32  # 8 in 8 seconds, 32 wait
    now = 2000.0
    assert admission.retry_after() == RETRY_LIMIT_SECONDS
    for at in range(8, 41):
        await running.end(at)
    await asyncio.gather(*tasks)
