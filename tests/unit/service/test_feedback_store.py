"""The feedback store on a real SQLite file: one label a response, nothing for ever, and no password in a message."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from sqlalchemy.exc import OperationalError

from service.app import create_app
from service.feedback.store import FeedbackStore, FeedbackUrlError, Label, database_url, one_line
from service.loading import StartupError
from service.settings import Settings
from tests.serving import make_parts
from tests.unit.service.served_responses import SHA, check_replacing, make_row


@pytest.fixture
def url(tmp_path):
    return database_url(f"sqlite:///{tmp_path}/state/feedback.db")


@pytest.fixture
def store(url):
    made = FeedbackStore(url)
    yield made
    made.close()


def label(number, name="hallucinated", span=None):
    return Label(make_row(number).id, 0, name, span)


def test_a_row_comes_back_as_it_was_remembered(store):
    row = make_row(7, question="Wer?", response="é\U0001f600")
    store.write([row])
    store.set_label(label(7, span=(3, 20)))
    (found,) = store.export()
    assert {name: found[name] for name in asdict(row)} == asdict(row)
    assert (found["label"], found["span_start"], found["span_end"]) == ("hallucinated", 3, 20)


def test_a_second_label_replaces_the_first_and_is_told_apart(store):
    store.write([make_row(1)])
    assert store.set_label(label(1, "faithful", span=(0, 4))).is_first
    second = store.set_label(label(1, "hallucinated"))
    assert second.is_found
    assert not second.is_first
    (found,) = store.export()
    assert (found["label"], found["span_start"]) == ("hallucinated", None)


def test_what_was_not_served_has_no_label(store):
    store.write([make_row(1)])
    assert not store.set_label(label(2)).is_found
    assert not store.set_label(Label(make_row(1).id, 1, "faithful", None)).is_found
    assert store.set_label(label(1, span=(3, 21))).is_outside
    assert list(store.export()) == []


def test_a_row_that_is_written_twice_keeps_its_label(store):
    store.write([make_row(1)])
    store.set_label(label(1))
    store.write([make_row(1), make_row(2)])
    assert [row["label"] for row in store.export()] == ["hallucinated"]


def test_a_row_takes_the_place_of_an_older_one_without_a_label(store):
    check_replacing(store)


def test_two_processes_that_label_the_same_response_count_it_once(url):
    stores = [FeedbackStore(url) for _ in range(4)]
    stores[0].write([make_row(number) for number in range(20)])
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(one.set_label, label(number)) for number in range(20) for one in stores]
        results = [one.result() for one in work]
    assert all(result.is_found for result in results)
    assert sum(result.is_first for result in results) == 20
    for one in stores:
        one.close()


def test_only_comparable_rows_go_into_the_calibration_error(store):
    store.write(
        [
            make_row(10),
            make_row(20),
            make_row(30, probe_sha256="2" * 64),
            make_row(40, is_calibrated=False, alpha=0.5),
            make_row(50, status="failed", risk=None),
            make_row(60),
        ]
    )
    for number in (20, 30, 40, 50, 10):
        store.set_label(label(number))
    assert [row.risk for row in store.labelled_risks(SHA, 10)] == [0.1, 0.2]
    assert [row.risk for row in store.labelled_risks(SHA, 1)] == [0.1]


def test_traffic_pushes_out_traffic_and_never_labels(store):
    store.write([make_row(number) for number in range(50)])
    for number in range(10):
        store.set_label(label(number))
    assert store.prune(keep=15, max_age_seconds=1e6) == 25
    assert len(list(store.export())) == 10
    assert not store.set_label(label(34)).is_found
    assert store.set_label(label(35)).is_found
    assert store.prune(keep=5, max_age_seconds=1e6) == 6 + 9
    assert [row["id"] for row in store.export()] == [make_row(number).id for number in (6, 7, 8, 9, 35)]


def test_what_is_too_old_goes_labelled_or_not(store):
    store.write([make_row(1), make_row(2), make_row(9_000)])
    store.set_label(label(1))
    assert store.prune(keep=100, max_age_seconds=5_000) == 2
    assert list(store.export()) == []
    assert store.set_label(label(9_000)).is_found


def test_the_file_is_its_owners_alone(store, tmp_path):
    store.write([make_row(1)])
    for path, mode in ((tmp_path / "state", 0o700), (tmp_path / "state" / "feedback.db", 0o600)):
        assert stat.S_IMODE(os.stat(path).st_mode) == mode


@pytest.mark.parametrize(
    "setting",
    [
        "mysql://me:tr0ub4dor@host/db",
        "postgresql+asyncpg://me:tr0ub4dor@host/db",
        "me:tr0ub4dor",
        "sqlite://",
        "sqlite:///:memory:",
        "on",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(setting):
    with pytest.raises(FeedbackUrlError, match="HGUARD_FEEDBACK_URL is sqlite:///FILE") as refusal:
        database_url(setting)
    assert "tr0ub4dor" not in str(refusal.value)


def test_a_password_stays_out_of_settings_and_of_the_start_ups_message():
    settings = Settings(engine="fake", feedback_url="mysql://me:tr0ub4dor@host/db")
    assert "tr0ub4dor" not in repr(settings) + str(settings.model_dump())
    with pytest.raises(StartupError, match="HGUARD_FEEDBACK_URL is") as refusal:
        create_app(settings, make_parts())
    assert "tr0ub4dor" not in str(refusal.value)


def test_unset_is_a_file_in_the_users_state_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = database_url(None)
    assert found is not None
    assert found.database == f"{tmp_path}/hguard/feedback.db"
    assert database_url("off") is None


def test_a_failure_in_the_log_holds_no_text(store, monkeypatch):
    store.write([make_row(1)])
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hguard_responses")
    with pytest.raises(OperationalError) as failure:
        store.write([make_row(2, question="my secret illness")])
    assert "secret" not in str(failure.value)
    assert one_line(failure.value) == "OperationalError: no such table: hguard_responses"
