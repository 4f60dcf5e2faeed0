"""More requests than places: a real server, real sockets; who is not refused is served, in turn, and never too many."""

import asyncio
import json
from contextlib import contextmanager

import httpx
import pytest

from service.engines.fake import FakeEngine
from service.engines.fake_probe import fake_artifact
from service.lifecycle import Parts
from tests.contract.test_disconnect import metric, wait_until_metric
from tests.keys import write_keys
from tests.serving import QUESTION, serve_on_port, wait_until

GATE = 6
REFUSED = 'hguard_admission_rejections_total{reason="queue_full"}'
WAITING = "hguard_requests_waiting"


class CountingEngine(FakeEngine):
    """Remembers how many sequences it had at most, and whose requests came in which order."""

    def __init__(self, **options):
        super().__init__(reply=self._note, **options)
        self.peak, self.order, self.is_held = 0, [], False

    def _note(self, request):
        self.order.append(self.tokenizer.decode(request.prompt_ids).split("asks ")[-1].split("\n")[0])
        return "The answer is Paris."

    async def _step(self, at):
        self.peak = max(self.peak, self.running)
        while self.is_held:
            await asyncio.sleep(0.005)
        await super()._step(at)


@contextmanager
def overloaded(step_seconds=0.005, **settings):
    engine = CountingEngine(step_seconds=step_seconds)
    with serve_on_port(Parts(engine, fake_artifact()), max_concurrent=GATE, **settings) as address:
        yield address, engine


async def wait_until_more(address, name, value, headers=None):
    """Wait for a series to rise over a value, on a connection of its own."""
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:
        for _ in range(600):
            if await metric(client, name) > value:
                return
            await asyncio.sleep(0.02)
    raise AssertionError(f"{name} stays at {value}")


def body(**changes):
    return {"prompt": "who asks nobody", "sampling": {"max_tokens": 30}, **changes}


async def test_32_clients_against_a_gate_of_6(tmp_path):
    with overloaded(queue_size=16) as (address, engine):
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=40)) as client:

            async def ask(at):
                sampling = {"max_tokens": 30, "n": 1 + at % 3}
                if at % 2:
                    return await client.post("/generate", json=body(sampling=sampling))
                if at % 4:
                    return await client.post("/score", json={"prompt": QUESTION, "response": "Paris."})
                return await client.post("/generate", json=body(sampling=sampling, stream=True))

            for _ in range(2):
                engine.is_held = True  # until somebody was sent away, however slow this machine is
                refused = await metric(client, REFUSED)
                asking = [asyncio.ensure_future(ask(at)) for at in range(32)]
                await wait_until_more(address, REFUSED, refused)
                engine.is_held = False
                answers = await asyncio.gather(*asking)
                codes = [answer.status_code for answer in answers]
                assert set(codes) == {200, 429}
                assert codes.count(200) >= GATE / 3 + 16  # a request has three choices at most
                for answer in answers:
                    if answer.status_code == 429:
                        assert answer.json()["error"]["code"] == "queue_full"
                        assert answer.json()["error"]["type"] == "rate_limit_error"
                        assert 1 <= int(answer.headers["retry-after"]) <= 60
                    elif answer.headers["content-type"].startswith("text/event-stream"):
                        assert "event: done" in answer.text
                    else:
                        assert answer.json()["risk"] is not None
                assert engine.peak <= GATE
            assert await metric(client, REFUSED) == await metric(
                client, 'hguard_requests_total{action="none",code="429",route="/generate"}'
            ) + await metric(client, 'hguard_requests_total{action="none",code="429",route="/score"}')
            for name, value in (("waiting", 0), ("running", 0)):
                await wait_until_metric(client, f"hguard_requests_{name}", value)
            assert await metric(client, "hguard_queue_capacity") == 16
            assert engine.running == 0
            waited = (await client.get("/metrics")).text
            assert "hguard_queue_duration_seconds_bucket" in waited
        assert engine.peak > GATE / 2


async def test_one_caller_with_many_requests_does_not_keep_another_waiting(tmp_path):
    keys = write_keys(tmp_path, busy="infer", calm="infer")
    with overloaded(queue_size=100, api_keys_file=keys) as (address, engine):
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=60)) as client:

            async def ask(name, at):
                headers = {"authorization": f"Bearer key of {name}"}
                answer = await client.post("/generate", json=body(prompt=f"who asks {name}{at}"), headers=headers)
                assert answer.status_code == 200, answer.text
                return answer.json()["timing"]["queue_s"]

            reader = {"authorization": "Bearer key of metrics"}
            engine.is_held = True
            busy = [asyncio.ensure_future(ask("busy", at)) for at in range(40)]
            await wait_until_more(address, WAITING, 40 - GATE - 1, reader)
            calm = [asyncio.ensure_future(ask("calm", at)) for at in range(4)]
            await wait_until_more(address, WAITING, 44 - GATE - 1, reader)
            engine.is_held = False
            waited = {"busy": await asyncio.gather(*busy), "calm": await asyncio.gather(*calm)}
        assert [name[:4] for name in engine.order] == ["busy"] * GATE + ["busy", "calm"] * 4 + ["busy"] * 30
        assert max(waited["calm"]) < max(waited["busy"])
        assert engine.peak == GATE


async def test_rate_limits_of_a_key_are_a_429_of_their_own(tmp_path):
    keys = write_keys(tmp_path, limits="requests_per_minute = 2", other="infer")
    with overloaded(api_keys_file=keys) as (address, _):
        async with httpx.AsyncClient(base_url=address) as client:
            mine, others = ({"authorization": f"Bearer key of {name}"} for name in ("infer", "other"))
            codes = [(await client.post("/generate", json=body(), headers=mine)).status_code for _ in range(2)]
            assert codes == [200, 200]
            refused = await client.post("/generate", json=body(), headers=mine)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
            assert 25 <= int(refused.headers["retry-after"]) <= 30
            assert (await client.post("/generate", json=body(), headers=others)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_counts_the_time_in_the_queue(stream):
    with overloaded(step_seconds=0.3) as (address, engine):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            running = [asyncio.ensure_future(client.post("/generate", json=body(timeout_s=3))) for _ in range(GATE)]
            await wait_until(lambda: engine.running == GATE)
            late = await client.post("/generate", json=body(timeout_s=0.2, stream=stream))
            if stream:
                assert late.status_code == 200
                assert late.text.count("event: error") == 1
                assert json.loads(late.text.split("data: ")[-1])["error"]["code"] == "timeout"
            else:
                assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
            assert len(engine.order) == GATE  # it never reached the engine
            assert await metric(client, "hguard_requests_waiting") == 0
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        await wait_until(lambda: engine.running == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_the_queue_is_gone_from_it(stream):
    with overloaded() as (address, engine):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            engine.is_held = True
            wide = body(sampling={"max_tokens": 30, "n": GATE})
            running = asyncio.ensure_future(client.post("/generate", json=wide))
            await wait_until(lambda: engine.running == GATE)
            async with httpx.AsyncClient(base_url=address) as leaving:
                if stream:
                    async with leaving.stream("POST", "/generate", json=body(stream=True, prompt="x asks left")) as it:
                        lines = it.aiter_lines()  # httpx hangs up when the iterator is collected
                        await anext(lines)
                        await wait_until_metric(client, "hguard_requests_waiting", 1)
                else:
                    soon = httpx.Timeout(60, read=0.1)
                    with pytest.raises(httpx.ReadTimeout):
                        await leaving.post("/generate", json=body(prompt="x asks left"), timeout=soon)
            await wait_until_metric(client, "hguard_requests_waiting", 0)
            await wait_until_metric(client, "hguard_client_disconnects_total", 1)
            engine.is_held = False
            assert (await running).status_code == 200
            assert (await client.post("/generate", json=body(prompt="x asks stayed"))).status_code == 200
        assert "left" not in engine.order
        assert engine.order[-1] == "stayed"
