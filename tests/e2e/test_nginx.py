"""nginx, a real process with deploy/integrations/nginx.conf, in front of real services over the fake engine."""

import asyncio
import json
import re
import signal

import httpx
import pytest

from service.web.middleware import BODY_LIMIT_BYTES
from tests.contract.test_litellm_guardrail import PATH, REQUEST, RESPONSE
from tests.running_nginx import CONFIG, running_nginx
from tests.running_service import Timed, running_service
from tests.serving import QUESTION, read_events, wait_until

pytestmark = pytest.mark.slow

STEP_S = 0.1
"""The fake engine's answer has 20 tokens."""
FEW = 8
"""A token leaves one step after it was made; the rest is for a busy machine."""


LOOKS_ON = {"additional_provider_specific_params": {"policy": "annotate"}}


def client_of(address, **options):
    return httpx.AsyncClient(base_url=address, timeout=60, **options)


def body(**changes):
    return {"prompt": QUESTION, "guard": {"return_tokens": True}, **changes}


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A service that takes two seconds for an answer, and nginx before it."""
    folder = tmp_path_factory.mktemp("nginx")
    with (
        running_service(folder, fake_step_s=STEP_S, max_concurrent=1, queue_size=0) as service,
        running_nginx(folder, service.port) as address,
    ):
        yield service, address


def is_idle(service):
    return lambda: service.metric("requests_running") == 0


async def tokens_on_the_way(service, address, path, asked):
    """The most tokens that the engine had made and a client had not got, and how many the client got."""
    made, got, most = service.metric("inter_token_latency_seconds_count"), 0, 0
    async with client_of(address) as client, client.stream("POST", path, json=asked) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if re.search(r'"(text|content)": ?"[^"]', line) and got < 18:  # the end tells all of it at once
                most = max(most, 1 + service.metric("inter_token_latency_seconds_count") - made - got)
                got += 1
    return most, got


ASKED = [
    ("/generate", {"prompt": QUESTION, "stream": True}),
    ("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": QUESTION}], "stream": True}),
]


@pytest.mark.parametrize(("path", "asked"), ASKED)
async def test_hazard_tokens_gather_in_nginx(slow, path, asked):
    service, address = slow
    await wait_until(is_idle(service))
    most, got = await tokens_on_the_way(service, address, path, asked)
    assert got == 18
    assert most < FEW


async def test_the_test_above_sees_a_proxy_that_gathers(slow, tmp_path):
    service, _ = slow
    await wait_until(is_idle(service))
    gathers = "proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_types text/event-stream;"
    text = CONFIG.read_text().replace("proxy_buffering off;", gathers)
    with running_nginx(tmp_path, service.port, text=text) as buffering:
        most, _ = await tokens_on_the_way(service, buffering, *ASKED[0])
    assert most >= FEW


@pytest.mark.parametrize("stream", [True, False])
async def test_hazard_a_client_that_left_nginx_keeps_the_engine_busy(slow, stream):
    service, address = slow
    await wait_until(is_idle(service))
    left, made = service.metric("client_disconnects_total"), service.metric("generation_tokens_total")
    async with client_of(address) as client:
        asking = asyncio.ensure_future(client.post("/generate", json=body(stream=stream)))
        await wait_until(lambda: service.metric("requests_running") == 1)
        asking.cancel()
    await wait_until(is_idle(service))
    await wait_until(lambda: service.metric("client_disconnects_total") == left + 1)
    assert service.metric("generation_tokens_total") - made < 20


async def test_hazard_a_refusal_loses_its_retry_after_or_becomes_unreachable(slow):
    service, address = slow
    async with client_of(address) as client:
        running = asyncio.ensure_future(client.post("/generate", json=body()))
        await wait_until(lambda: service.metric("requests_running") == 1)
        refused = await client.post("/generate", json=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await running).status_code == 200


@pytest.mark.parametrize("asked", [body(stream=True), body(stream=True, stream_mode="hold")])
async def test_a_stream_is_byte_for_byte_that_of_the_service(slow, asked):
    service, address = slow
    found = []
    for place in (service.address, address):
        async with client_of(place) as client:
            events = read_events((await client.post("/generate", json=asked)).text)
            assert events[-1][0] == "done"
            found.append([event for event in events if event[0] in ("token", "span", "guard")])
    assert found[0] == found[1]
    assert len(found[0]) > 20


async def test_the_request_id_is_the_clients_or_nginxs_and_the_same_on_both_sides(slow):
    _, address = slow
    async with client_of(address) as client:
        assert (await client.get("/livez", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
        assert len((await client.get("/livez")).headers["x-request-id"]) == 32  # the service's own begin with req-


CLOSED = ["/metrics", "//metrics", "/x/../metrics", "/%6detrics", "/metrics?x=1", "/probes/reload", "/probes%2freload"]


@pytest.mark.parametrize("path", [*CLOSED, "/probes/fake/activate", "/x/..%2fprobes/fake/rollback"])
async def test_hazard_a_spelling_of_a_path_opens_the_inside(slow, path):
    service, address = slow
    through = Timed(int(address.rpartition(":")[2]))  # sends a path as it stands
    try:
        for method in ("GET", "POST"):
            answer = through.ask(method, path, {} if method == "POST" else None)
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "not_found")
        assert through.ask("GET", "/probes").status == 200
    finally:
        through.close()
    assert service.status("/metrics") == 200


async def test_the_largest_body_is_the_services(slow):
    _, address = slow
    sound = {"content-type": "application/json"}
    rest = len(json.dumps({"prompt": ""}))
    async with client_of(address) as client:
        for length, status, code in (
            (BODY_LIMIT_BYTES, 422, "context_length_exceeded"),
            (BODY_LIMIT_BYTES + 1, 413, "payload_too_large"),
        ):
            data = json.dumps({"prompt": "a" * (length - rest)})
            assert len(data) == length
            answer = await client.post("/generate", content=data, headers=sound)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_hazard_a_dead_replica_takes_answers_with_it(tmp_path):
    """JSON answers of a replica that is killed come from the other; its streams end without `done`, as clients see."""
    with (
        running_service(tmp_path, fake_step_s=STEP_S) as one,
        running_service(tmp_path, fake_step_s=STEP_S) as two,
        running_nginx(tmp_path, one.port, two.port) as address,
    ):
        async with client_of(address) as client:
            asked = [asyncio.ensure_future(client.post("/generate", json=body(stream=at % 2 == 0))) for at in range(8)]
            await wait_until(lambda: one.metric("requests_running") == two.metric("requests_running") == 4)
            one.process.kill()
            found = await asyncio.gather(*asked, return_exceptions=True)
            whole = [answer for answer in found[1::2] if not isinstance(answer, Exception)]
            assert [answer.status_code for answer in whole] == [200] * 4
            cut = [answer for answer in found[::2] if isinstance(answer, Exception) or "event: done" not in answer.text]
            assert 1 <= len(cut) <= 3
            for _ in range(6):
                assert (await client.post("/score", json={"prompt": "Q", "response": "Paris."})).status_code == 200
            two.process.kill()
            two.process.wait()
            gone = await client.post("/generate", json=body())
            assert (gone.status_code, gone.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_hazard_a_replica_that_shuts_down_refuses_somebody(tmp_path):
    """It says 503 while its streams end; nobody behind nginx reads it, and no token of the streams is lost."""
    with (
        running_service(tmp_path, fake_step_s=STEP_S) as one,
        running_service(tmp_path, fake_step_s=STEP_S) as two,
        running_nginx(tmp_path, one.port, two.port) as address,
    ):
        async with client_of(address) as client:
            streams = [asyncio.ensure_future(client.post("/generate", json=body(stream=True))) for _ in range(4)]
            await wait_until(lambda: one.metric("requests_running") == two.metric("requests_running") == 2)
            one.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: one.status("/readyz") == 503)
            for _ in range(10):
                assert (await client.post("/score", json={"prompt": "Q", "response": "Paris."})).status_code == 200
            for stream in await asyncio.gather(*streams):
                assert read_events(stream.text)[-1][0] == "done"
        assert await asyncio.to_thread(one.process.wait, 20) == 0


async def test_hazard_answers_that_could_not_be_scored_take_every_replica_out(tmp_path):
    """Such a 503 is one request's: counted by nginx, a few of them would be 502 for everybody."""
    with (
        running_service(tmp_path, score_timeout_s=1e-9) as one,
        running_service(tmp_path, score_timeout_s=1e-9) as two,
        running_nginx(tmp_path, one.port, two.port) as address,
    ):
        async with client_of(address) as client:
            for _ in range(8):
                unscored = await client.post("/generate", json=body(guard={"on_error": "fail_closed"}))
                assert (unscored.status_code, unscored.json()["error"]["code"]) == (503, "guard_unavailable")
                assert (await client.get("/readyz")).status_code == 200
            shown = await client.post("/generate", json=body(guard={"on_error": "fail_open"}))
            assert (shown.status_code, shown.json()["choices"][0]["guard"]["status"]) == (200, "failed")


async def test_hazard_litellms_answer_reaches_a_process_that_never_saw_its_prompt(tmp_path):
    """Each gateway's address keeps to one replica, and there is work for both of them."""
    with (
        running_service(tmp_path) as one,
        running_service(tmp_path) as two,
        running_nginx(tmp_path, one.port, two.port) as address,
    ):
        for gateway in range(2, 10):
            transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{gateway}")
            async with client_of(address, transport=transport) as client:
                for call in range(3):
                    named = {"litellm_call_id": f"{gateway}-{call}", **LOOKS_ON}
                    for asked in (REQUEST, RESPONSE):
                        answer = (await client.post(PATH, json={**asked, **named})).json()
                        assert (answer["action"], answer["unscored"]) == ("NONE", [])
        assert one.metric("scored_responses_total") + two.metric("scored_responses_total") == 24
        assert one.metric("scored_responses_total") > 0 < two.metric("scored_responses_total")
