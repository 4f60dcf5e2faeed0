"""Several service processes behind a real nginx: what they share, and what each has for itself (docs/scaling.md)."""

import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import SimpleNamespace

import httpx
import pytest

from service.engines.fake_probe import fake_artifact
from tests.postgres import run_postgres
from tests.probe_library import HEADERS, SETTINGS, activate, list_states, turned, write_library
from tests.running_nginx import running_nginx
from tests.running_service import running_service
from tests.serving import QUESTION

pytestmark = pytest.mark.slow

WRITTEN_S = 10.0
"""A response is in the database about a second after it was served; the rest is for a busy machine."""


@contextmanager
def replicas(folder, **settings):
    """Two processes and nginx before them, as clients."""
    with ExitStack() as stack:
        services = [stack.enter_context(running_service(folder, **settings)) for _ in range(2)]
        address = stack.enter_context(running_nginx(folder, *(service.port for service in services)))
        places = [*(service.address for service in services), address]
        one, two, front = [stack.enter_context(httpx.Client(base_url=place, timeout=30)) for place in places]
        yield SimpleNamespace(one=one, two=two, front=front, services=services)


def generate(client):
    answer = client.post("/generate", json={"prompt": QUESTION})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def label_until_found(client, response_id):
    """As docs/scaling.md tells clients: a 404 in the first second is asked again."""
    ends = time.monotonic() + WRITTEN_S
    while True:
        answer = client.post("/feedback", json={"id": response_id, "label": "faithful"})
        if answer.status_code == 200:
            return answer.json()
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
        assert time.monotonic() < ends, "the label never found its response"
        time.sleep(0.2)


@pytest.fixture(params=["postgresql", "sqlite"])
def shared_database(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/feedback.db"
        return
    with run_postgres() as server:
        yield server.url


def test_a_label_reaches_a_response_of_the_other_replica(shared_database, tmp_path):
    with replicas(tmp_path, feedback_url=shared_database) as served:
        for maker, judge in ((served.one, served.two), (served.two, served.one), (served.front, served.front)):
            response_id = generate(maker)
            assert label_until_found(judge, response_id)["replaced"] is False
            assert label_until_found(maker, response_id)["replaced"] is True


def test_hazard_replicas_with_databases_of_their_own_lose_labels_without_a_word(tmp_path):
    """They refuse them: a 404 that stays, and nothing is counted as a label."""
    with (
        running_service(tmp_path, feedback_url=f"sqlite:///{tmp_path}/one.db") as first,
        running_service(tmp_path, feedback_url=f"sqlite:///{tmp_path}/two.db") as second,
        httpx.Client(base_url=first.address) as one,
        httpx.Client(base_url=second.address) as two,
    ):
        response_id = generate(one)
        label_until_found(one, response_id)  # so it is written by now
        refused = two.post("/feedback", json={"id": response_id, "label": "faithful"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "response_not_found")
        assert 'hguard_feedback_total{label="faithful"} 1.0' in one.get("/metrics").text
        assert 'hguard_feedback_total{label="faithful"} 1.0' not in two.get("/metrics").text


@asynccontextmanager
async def asking(service):
    async with httpx.AsyncClient(base_url=service.address, timeout=30) as client:
        yield client


async def test_a_switch_reaches_one_replica_and_a_new_one_starts_with_the_last(tmp_path):
    made = [turned(fake_artifact(), version) for version in ("1", "2")]
    probes = write_library(tmp_path / "probes", made[0])
    settings = {"probes_dir": probes, **SETTINGS}
    with running_service(tmp_path, **settings) as first, running_service(tmp_path, **settings) as second:
        async with asking(first) as one, asking(second) as two:
            write_library(probes, made[1])  # published while they serve
            assert (await one.post("/probes/reload", headers=HEADERS)).status_code == 200
            assert await list_states(one) == {"0": "active", "1": "available", "2": "available"}
            assert await list_states(two) == {"0": "active", "1": "available"}
            assert (await activate(one, made[1].probe)).json()["is_kept"]
            assert (await list_states(one))["2"] == "active"
            assert (await list_states(two))["0"] == "active"
        with running_service(tmp_path, **settings) as third:
            async with asking(third) as client:
                assert (await list_states(client))["2"] == "active"
