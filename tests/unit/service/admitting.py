"""Admission over a clock of its own, and requests that run until they are told to end."""

import asyncio

import pytest

from service.admission.auth import Caller, Limits
from service.admission.gate import Admission
from service.choices.choice import within
from service.observe.metrics import Metrics
from service.web.errors import ApiError


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
