"""A service that goes wrong, a real Prometheus and Alertmanager: the operator is told, and told when it is over."""

import httpx
import pytest

from tests.keys import show, write_keys
from tests.monitoring.stack import FACTOR, free_port, running_stack, shorten, wait_for
from tests.running_service import running_service
from tests.serving import QUESTION


def test_only_durations_are_shortened():
    text = "for: 5m\nexpr: rate(x_rate5m[1h]) * 3600 > 0.5 and y[30s] < 900\n"
    assert FACTOR == 60
    assert shorten(text) == "for: 5000ms\nexpr: rate(x_rate5m[60000ms]) * 3600 > 0.5 and y[500ms] < 900\n"


@pytest.mark.slow
def test_the_operator_hears_of_a_wrong_tap_and_of_unguarded_answers_and_of_their_end(tmp_path):
    port, keys = free_port(), write_keys(tmp_path)
    (tmp_path / "metrics.key").write_text("key of metrics")
    common = {"port": port, "api_keys_file": keys, "feedback_url": f"sqlite:///{tmp_path}/labels.db"}
    with running_stack(tmp_path, port, tmp_path / "metrics.key") as stack:
        receiver = stack.receiver
        with running_service(tmp_path, awaited="/livez", fake_fault="nan_scores", **common) as service:
            assert service.status("/readyz") == 503
            summary = receiver.wait("HguardGoldenTraceFailed", "firing")
            assert summary == f"127.0.0.1:{port} does not reproduce its probe's scores"
            wait_for(lambda: "HguardNotReady" in stack.firing(), "not ready for 5 minutes")
            receiver.wait("HguardProbeLoadFailed", "firing")
        wait_for(lambda: "HguardDown" in stack.firing(), "down for 3 minutes")
        # A new process: counters begin again. Judging is always too late, and clients ask to be served all the same.
        with running_service(tmp_path, score_timeout_s=1e-6, **common):
            receiver.wait("HguardGoldenTraceFailed", "resolved")
            receiver.wait("HguardDown", "resolved")
            wait_for(lambda: stack.ask("instance:hguard_fail_open:sum == 0"), "no counter at 0")
            assert not receiver.has("HguardFailOpen", "firing")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=show("infer"), timeout=30) as client:
                answer = client.post("/generate", json={"prompt": QUESTION, "guard": {"on_error": "fail_open"}})
                assert (answer.status_code, answer.json()["risk"]) == (200, None)
            receiver.wait("HguardFailOpen", "firing")  # of one answer, the first ever
            assert {"HguardFailOpen", "HguardScoringFailures"} <= stack.firing()
            receiver.wait("HguardFailOpen", "resolved")
    # Prometheus takes 5 s to find its targets: here that is the 5 minutes of HguardMissing.
    told = {alert for alert, _, _ in receiver.messages} - {"HguardMissing"}
    # What another alert explains was not told.
    assert told == {"HguardGoldenTraceFailed", "HguardProbeLoadFailed", "HguardDown", "HguardFailOpen"}, (
        receiver.messages
    )
