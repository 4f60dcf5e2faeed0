"""A database of labels that is down, hangs or is slow costs labels and nothing else, and the loss is counted."""

import asyncio

import httpx
import pytest

import service.feedback.feedback
import service.feedback.writer
from tests.contract.labelling import generate, label, metric, metric_becomes
from tests.serving import make_parts, serve_on_port


async def test_a_database_that_cannot_be_opened_costs_labels_and_nothing_else(tmp_path):
    blocked = tmp_path / "state"
    blocked.write_text("a file where the folder should be")
    with serve_on_port(make_parts(locator="response"), feedback_url=f"sqlite:///{blocked}/feedback.db") as address:
        async with httpx.AsyncClient(base_url=address) as client:
            response_id = (await generate(client))["id"]
            answer = await label(client, response_id)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "feedback_unavailable"
            assert str(tmp_path) not in answer.text
            assert await metric(client, 'hguard_feedback_failures_total{operation="label"}') == 1
            assert (await client.get("/readyz")).status_code == 200
            blocked.unlink()
            assert (await label(client, response_id)).status_code == 200, (
                "the outage is over, and nothing was forgotten"
            )


async def test_a_database_that_hangs_delays_no_answer(monkeypatch):
    """It accepts connections and never says a word: the worst way to be down."""
    pytest.importorskip("psycopg")
    monkeypatch.setattr(service.feedback.feedback, "LABEL_SECONDS", 1.5)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"postgresql://me:tr0ub4dor@127.0.0.1:{port}/labels"
    with serve_on_port(make_parts(locator="response"), feedback_url=url) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            response_id = (await generate(client))["id"]
            refused = asyncio.create_task(label(client, response_id))
            n = 0
            while not refused.done():
                await generate(client)
                n += 1
            answer = await refused
    server.close()
    assert answer.status_code == 503
    assert "tr0ub4dor" not in answer.text
    assert n >= 3


async def test_labels_that_wait_for_a_hanging_database_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(service.feedback.feedback, "LABELS_LIMIT", 0)
    with serve_on_port(make_parts(locator="response"), feedback_url=f"sqlite:///{tmp_path}/feedback.db") as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await label(client, (await generate(client))["id"])).status_code == 503


@pytest.mark.parametrize(
    ("limit", "value", "keeps"), [("PENDING_LIMIT", 5, False), ("PENDING_CHARACTERS", 4_500, True)]
)
async def test_what_waits_for_a_database_is_bounded_and_the_loss_is_counted(monkeypatch, tmp_path, limit, value, keeps):
    monkeypatch.setattr(service.feedback.writer, limit, value)
    blocked = tmp_path / "state"
    blocked.write_text("a file where the folder should be")
    settings = {"feedback_url": f"sqlite:///{blocked}/feedback.db", "feedback_text": keeps}
    with serve_on_port(make_parts(locator="response"), **settings) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            ids = [(await generate(client, prompt="x" * 1_000))["id"] for _ in range(12)]
            lost = 7 if limit == "PENDING_LIMIT" else 8  # each row has 1,012 characters
            await metric_becomes(client, 'hguard_feedback_failures_total{operation="remember"}', lost)
            blocked.unlink()
            assert [(await label(client, one)).status_code for one in ids] == [404] * lost + [200] * (12 - lost)
