"""POST /feedback on a real server with a real SQLite file: every served response can be labelled, and nothing else."""

import asyncio
import contextlib
import sqlite3

import httpx
import pytest

from tests.contract.asking import body
from tests.contract.labelling import generate, label, metric, metric_becomes
from tests.serving import QUESTION, make_parts, read_events, serve_on_port

SECRET = "zebra-quagga-31337"


@pytest.fixture
def database(tmp_path):
    return tmp_path / "feedback.db"


@pytest.fixture
def address(database):
    with serve_on_port(make_parts(locator="response"), feedback_url=f"sqlite:///{database}") as found:
        yield found


@pytest.fixture
async def client(address):
    async with httpx.AsyncClient(base_url=address, timeout=30) as found:
        yield found


async def ids_of_all_routes(client):
    """One response id a way of being served."""
    events = read_events((await client.post("/generate", json=body(stream=True))).text)
    held = read_events((await client.post("/generate", json=body(stream=True, stream_mode="hold"))).text)
    scored = await client.post("/score", json={"prompt": QUESTION, "response": "It is Paris."})
    unscored = await generate(client, guard={"policy": "off", "return_tokens": False})
    talk = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "It is Paris."}]
    checked = await client.post("/v1/checks", json={"messages": talk})
    chat = await client.post("/v1/chat/completions", json={"model": "fake", "messages": talk[:1], "max_tokens": 30})
    json_id = (await generate(client))["id"]
    return [
        json_id,
        events[0][2]["id"],
        held[0][2]["id"],
        scored.json()["id"],
        unscored["id"],
        checked.json()["id"],
        chat.json()["id"],
    ]


async def test_a_response_can_be_labelled_at_once_whatever_route_served_it(client):
    for response_id in await ids_of_all_routes(client):
        answer = await label(client, response_id, "faithful")
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"id": response_id, "choice": 0, "label": "faithful", "replaced": False}
    assert await metric(client, 'hguard_feedback_total{label="faithful"}') == 7


async def test_each_choice_has_a_label_of_its_own(client):
    response_id = (await generate(client, sampling={"n": 2, "temperature": 1.0, "seed": 1}))["id"]
    assert (await label(client, response_id, choice=1)).json()["replaced"] is False
    assert (await label(client, response_id)).json()["replaced"] is False
    assert (await label(client, response_id, choice=2)).status_code == 404


async def test_a_second_label_replaces_the_first_and_is_counted_once(client, database):
    response_id = (await generate(client))["id"]
    await label(client, response_id, "faithful")
    assert (await label(client, response_id, "hallucinated")).json()["replaced"] is True
    assert await metric(client, 'hguard_feedback_total{label="faithful"}') == 1
    assert await metric(client, 'hguard_feedback_total{label="hallucinated"}') is None
    with sqlite3.connect(database) as rows:
        assert rows.execute("SELECT label FROM hguard_responses").fetchall() == [("hallucinated",)]


async def test_an_id_that_was_not_served_is_404_and_not_echoed(client):
    answer = await label(client, f"gen-{SECRET}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "response_not_found"
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": "wrong"},
        {"id": ""},
        {"id": "g" * 129},
        {"span": {"start": 3, "end": 3}},
        {"span": {"start": 0, "end": 10_000}},
        {"span": {"start": -1, "end": 2}},
        {"choice": -1},
        {"note": "x"},
    ],
)
async def test_a_label_that_says_nothing_is_refused(client, wrong):
    response_id = (await generate(client))["id"]
    answer = await client.post("/feedback", json={"id": response_id, "label": "faithful", **wrong})
    assert answer.status_code == 422, answer.text
    assert await metric(client, 'hguard_feedback_total{label="faithful"}') is None


async def test_a_span_is_kept_for_the_trainer(client, database):
    answer = await generate(client)
    span = answer["choices"][0]["guard"]["spans"][0]
    await label(client, answer["id"], span={"start": span["start"], "end": span["end"]})
    with sqlite3.connect(database) as rows:
        found = rows.execute("SELECT span_start, span_end FROM hguard_responses").fetchall()
    assert found == [(span["start"], span["end"])]


async def test_labels_that_come_together_are_all_kept(client):
    ids = [(await generate(client))["id"] for _ in range(40)]
    answers = await asyncio.gather(*(label(client, one) for one in ids for _ in range(2)))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(not answer.json()["replaced"] for answer in answers) == 40
    assert await metric(client, 'hguard_feedback_total{label="hallucinated"}') == 40


async def test_labels_and_ids_outlive_a_restart(database):
    settings = {"feedback_url": f"sqlite:///{database}"}
    with serve_on_port(make_parts(locator="response"), **settings) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            first, second = (await generate(client))["id"], (await generate(client))["id"]
            await label(client, first)
    with serve_on_port(make_parts(locator="response"), **settings) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await label(client, first)).json()["replaced"] is True
            assert (await label(client, second)).json()["replaced"] is False
            await metric_becomes(client, 'hguard_risk_window_rows{kind="labelled"}', 2)


def files_of(database):
    """What is on the disk; SQLite takes its two side files away as it closes, so those may go while we read."""
    found = b""
    for path in database.parent.glob(f"{database.name}*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_bytes()
    return found


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_secret_reaches_the_disk_only_where_the_operator_keeps_texts(database, keeps):
    settings = {"feedback_url": f"sqlite:///{database}", "feedback_text": keeps}
    with serve_on_port(make_parts(locator="response"), **settings) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            asked = await generate(client, prompt=f"Where is {SECRET}?")
            scored = await client.post("/score", json={"prompt": QUESTION, "response": f"{SECRET} is here."})
            for response_id in (asked["id"], scored.json()["id"]):
                assert (await label(client, response_id)).status_code == 200
            found = files_of(database)
    assert (SECRET.encode() in found) is keeps
    assert (SECRET.encode() in files_of(database)) is keeps
    assert (b"The answer" in files_of(database)) is keeps


async def test_feedback_that_is_off_says_so(client):
    with serve_on_port(make_parts(locator="response"), feedback_url="off") as address:
        async with httpx.AsyncClient(base_url=address) as off:
            answer = await label(off, (await generate(off))["id"])
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "feedback_off"
