"""Feedback in a real PostgreSQL server: shared by two services, through an outage, with odd texts."""

import json
import sqlite3

import httpx
import pytest

from service.feedback.store import FeedbackStore, Label, database_url
from service.feedback_export import main
from tests.contract.labelling import generate, label, metric, metric_becomes
from tests.postgres import PASSWORD, run_postgres
from tests.serving import make_parts, serve_on_port
from tests.unit.service.served_responses import SHA, check_replacing, make_row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    with run_postgres() as found:
        yield found


def open_client(address):
    return httpx.AsyncClient(base_url=address, timeout=30)


async def test_two_services_share_labels_and_an_outage_costs_labels_only(server, monkeypatch, tmp_path, caplog):
    settings = {"feedback_url": server.url, "feedback_text": True}
    with (
        serve_on_port(make_parts(locator="response"), **settings) as one,
        serve_on_port(make_parts(locator="response"), **settings) as two,
    ):
        async with open_client(one) as first, open_client(two) as second:
            response_id = (await generate(first, prompt="Wer? \0 é\U0001f600"))["id"]
            assert (await label(first, response_id, "faithful")).json()["replaced"] is False
            assert (await label(second, response_id)).json()["replaced"] is True
            assert await metric(second, 'hguard_feedback_total{label="hallucinated"}') is None
            server.stop()
            waits = (await generate(first))["id"]
            answer = await label(first, waits)
            assert answer.status_code == 503
            assert PASSWORD not in answer.text
            assert (await first.get("/readyz")).status_code == 200
            server.start()
            assert (await label(first, waits)).status_code == 200
            await metric_becomes(first, 'hguard_risk_window_rows{kind="labelled"}', 2)
    assert PASSWORD not in caplog.text
    monkeypatch.setenv("HGUARD_FEEDBACK_URL", server.url)
    assert main(["export", "--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [response_id, waits]
    assert rows[0]["question"] == "Wer? \ufffd é\U0001f600"


def test_a_row_takes_the_place_of_an_older_one_without_a_label(server):
    store = FeedbackStore(database_url(server.url))
    store.prune(keep=1, max_age_seconds=0)
    check_replacing(store)
    store.close()


def test_a_row_is_the_same_in_both_databases(server, tmp_path):
    """Numbers to the last bit, and the same rules."""
    found = []
    for url in (server.url, f"sqlite:///{tmp_path}/feedback.db"):
        store = FeedbackStore(database_url(url))
        store.prune(keep=1, max_age_seconds=0)
        rows = [
            make_row(number, risk=1 / (number + 3), parts={"cett": 0.1 + 0.2, "length": 3.0}) for number in range(9)
        ]
        store.write(rows)
        store.write(rows)
        for number in (1, 4, 5):
            assert store.set_label(Label(rows[number].id, 0, "faithful", (0, 3))).is_first
        assert not store.set_label(Label(rows[4].id, 0, "hallucinated", None)).is_first
        assert store.set_label(Label(rows[4].id, 0, "hallucinated", (0, 21))).is_outside
        assert not store.set_label(Label("gen-0", 0, "faithful", None)).is_found
        assert store.prune(keep=2, max_age_seconds=1e6) == 4 + 1
        kept = list(store.export())
        for row in kept:
            row.pop("created"), row.pop("labelled")
        found.append((kept, store.labelled_risks(SHA, 10)))
        store.close()
    assert found[0] == found[1]
    assert len(found[0][0]) == 2
    assert sqlite3.connect(tmp_path / "feedback.db").execute("SELECT count(*) FROM hguard_responses").fetchone() == (4,)
