"""The gate and the queue: never too many at once, callers in turn, and every way out gives the place back."""

import asyncio

import pytest

from service.admission import RETRY_LIMIT_SECONDS, Admission
from service.auth import Caller, Limits
from service.choice import within
from service.errors import ApiError
from service.metrics import Metrics


def make(**changes):
    return Admission(Metrics(), **{"max_sequences": 2, "queue_size": 8, "queue_tokens": 1000, **changes})


def caller(name="a", **limits):
    return Caller(name, frozenset({"infer"}), Limits(**limits))


def read(admission, name, **labels):
    return admission.metrics.registry.get_sample_value(f"hguard_{name}", labels)


class Running:
    """Requests whose work ends when it is told to."""

    def __init__(self, admission):
        self.admission, self.order, self.ends = admission, [], {}

    def start(self, name, by="a", sequences=1, tokens=1, timeout=60.0):
        ticket = self.admission.open(caller(by))
        try:
            ticket.join(sequences, tokens)
        except ApiError:
            ticket.close()
            raise
        self.ends[name] = asyncio.Event()

        async def work():
            self.order.append(name)
            await self.ends[name].wait()

        return asyncio.ensure_future(self._finish(ticket, within(timeout, ticket.run(work))))

    async def _finish(self, ticket, work):
        try:
            return await work
        finally:
            ticket.close()

    async def end(self, *names):
        for name in names:
            self.ends[name].set()
            await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def refusal(work):
    with pytest.raises(ApiError) as found:
        await work
    return found.value


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
