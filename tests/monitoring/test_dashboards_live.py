"""Every panel has something to show when the default model serves and is used; a healthy guard raises no alarm."""

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import httpx
import pytest

from probes.artifact import load_artifact
from probes.models import DEFAULT_MODEL
from probes.probe import Probe
from tests.keys import digest, show, write_keys
from tests.monitoring.dashboards import queries
from tests.monitoring.series import ROOT
from tests.monitoring.stack import free_port, running_stack, wait_for
from tests.probe_library import write_library
from tests.running_service import running_service

pytestmark = pytest.mark.slow

PLACES = (
    *(
        "France",
        "Japan",
        "Peru",
        "Kenya",
        "Norway",
        "Egypt",
        "Chile",
        "Ghana",
        "Nepal",
        "Cuba",
        "Fiji",
        "Malta",
        "Spain",
    ),
    *("Atlantis", "Narnia", "Mordor", "Utopia", "Zorblax", "Wakanda", "Lilliput", "Ruritania", "Sylvania", "Freedonia"),
    *("Italy", "Austria", "Ireland"),
)
LIBRARY = ROOT / "probes" / "library" / DEFAULT_MODEL
SHIPPED = max(path.name for path in LIBRARY.iterdir())
DUE_TO_THE_TEST = {"HguardMissing", "HguardFirstTokenSlow", "HguardRiskDrift"}
"""Prometheus finds its targets in 5 s, here 5 minutes; all questions come at once; not the card's questions."""


def write_shadow(folder) -> Probe:
    """The shipped probe with a lower threshold, under another version."""
    artifact = load_artifact(LIBRARY / SHIPPED)
    artifact = replace(artifact, probe=replace(artifact.probe, version="9.9.9", threshold=0.9))
    write_library(folder, artifact)
    return artifact.probe


class Users:
    """Who ask, label and misbehave."""

    def __init__(self, address: str) -> None:
        self.post = partial(httpx.post, timeout=120)
        self.address = address

    def ask(self, prompt, path="/generate", key="infer", **body):
        body = {"prompt": prompt, "raw": True, **body}
        body |= {} if path == "/score" else {"sampling": {"max_tokens": 4, **body.get("sampling", {})}}
        return self.post(self.address + path, json=body, headers=show(key))

    def ask_much(self, place):
        """Eight answers."""
        sampling = {"n": 8, "temperature": 1.0, "seed": len(place)}
        answer = self.ask(f"The capital of {place} is", sampling=sampling, guard={"policy": "flag"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def label(self, answer, choice):
        label = "hallucinated" if choice["guard"]["risk"] > 0.6 else "faithful"
        body = {"id": answer["id"], "choice": choice["index"], "label": label}
        assert self.post(self.address + "/feedback", json=body, headers=show("infer")).status_code == 200

    def use_everything(self):
        low = {"threshold": 0.01}
        held = {"stream": True, "stream_mode": "hold"}
        assert "event: done" in self.ask("Paris is in", guard={"policy": "block", **low}, **held).text
        assert "event: done" in self.ask("Paris is in", guard={"policy": "annotate"}, **held).text
        assert self.ask("Paris is in", guard={"policy": "suppress", **low}).status_code == 200
        assert self.ask("Paris is in", guard={"policy": "abstain", **low}).status_code == 200
        assert self.ask("Paris is in", path="/score", response=" France.").status_code == 200
        assert self.ask("Paris is in", guard={"policy": "nonsense"}).status_code == 422
        assert {self.ask("Rome", key="limited").status_code for _ in range(2)} == {200, 429}
        with contextlib.suppress(httpx.ReadTimeout):  # a client that leaves
            headers, sampling = show("infer"), {"max_tokens": 500}
            httpx.post(
                f"{self.address}/generate",
                json={"prompt": "Go on.", "sampling": sampling},
                headers=headers,
                timeout=0.3,
            )


def shows(stack, query) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in stack.ask(query.filled("120s")))


def test_no_panel_is_empty_and_a_healthy_guard_raises_no_alarm(tmp_path):
    port, keys = free_port(), write_keys(tmp_path)
    limited = f'[[keys]]\nname = "limited"\nsha256 = "{digest("limited")}"\nscopes = ["infer"]\n'
    keys.write_text(f"{keys.read_text()}\n{limited}limits = {{requests_per_minute = 1}}\n")
    (tmp_path / "metrics.key").write_text("key of metrics")
    shadow = write_shadow(tmp_path / "probes")
    settings = {
        "port": port,
        "engine": "transformers",
        "probe": f"{DEFAULT_MODEL}@{SHIPPED}",
        "max_concurrent": 64,
        "api_keys_file": keys,
        "probes_dir": tmp_path / "probes",
        "feedback_url": f"sqlite:///{tmp_path}/labels.db",
        "audit_log": tmp_path / "audit.jsonl",
        "canary_s": 5,
    }
    with running_service(tmp_path, **settings) as service, ThreadPoolExecutor(len(PLACES)) as pool:
        users = Users(service.address)
        began = httpx.post(
            f"{service.address}/probes/{shadow.name}/activate",
            json={"version": shadow.version, "mode": "shadow"},
            headers=show("admin"),
            timeout=60,
        )
        assert began.status_code == 200, began.text
        with running_stack(tmp_path, port, tmp_path / "metrics.key") as stack:
            wait_for(lambda: stack.ask("hguard_ready == 1"), "not scraped")
            answers = list(pool.map(users.ask_much, PLACES))
            scored = [
                (one, choice) for one in answers for choice in one["choices"] if choice["guard"]["risk"] is not None
            ]
            assert len(scored) >= 200
            list(pool.map(lambda pair: users.label(*pair), scored[:120]))
            told = {alert for alert, _, _ in stack.receiver.messages}
            assert told <= DUE_TO_THE_TEST, stack.receiver.messages
            users.use_everything()
            wait_for(lambda: stack.ask("hguard_risk_window_rows{kind='labelled'} >= 120"), "no labels")
            wait_for(lambda: stack.ask("hguard_client_disconnects_total > 0"), "nobody left")
            wait_for(lambda: stack.ask('hguard_admission_rejections_total{reason="rate_limited"} > 0'), "no refusal")
            silent = list(queries())
            end = time.monotonic() + 60
            while silent and time.monotonic() < end:  # what has a window of 5 minutes, here 5 s, must see some load
                assert users.ask("Rome").status_code == 200
                silent = [query for query in silent if not shows(stack, query)]
            assert not [query.label for query in silent]
            flagged = 'hguard_actions_total{action="flagged", policy="flag"} > 0'
            assert stack.ask(flagged)
            assert stack.ask('hguard_response_risk_count{role="shadow", probe=~".*@9.9.9"} >= 200')
            assert stack.ask("hguard_shadow_disagreements_total > 0")
