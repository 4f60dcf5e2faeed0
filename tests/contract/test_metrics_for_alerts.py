"""What the alerts stand on: /readyz as a metric, and counters whose first event is an increase."""

import httpx
import pytest

from tests.contract.metric_deltas import becomes, counts, gauge
from tests.keys import show, write_keys
from tests.serving import QUESTION, make_parts, serve_on_port

REASONS = ("missing_rows", "not_finite", "scorer_error", "deadline", "engine_error")
LABELS = {
    "scoring_failures_total{reason=%s}": REASONS,
    "fail_open_total{reason=%s}": REASONS,
    "shadow_failures_total{reason=%s}": (*REASONS, "too_slow"),
    "admission_rejections_total{reason=%s}": ("queue_full", "rate_limited", "draining"),
    "golden_trace_failures_total{role=%s}": ("active", "canary", "shadow"),
    "probe_loads_total{result=%s}": ("refused",),
    "api_key_loads_total{result=%s}": ("ok", "failed"),
    "feedback_failures_total{operation=%s}": ("label", "remember"),
    "prompts_forgotten_total{reason=%s}": ("expired", "evicted"),
}
BEGIN_AT_ZERO = [name % label for name, labels in LABELS.items() for label in labels]


async def test_hazard_the_first_failure_is_the_first_value_of_its_series_and_no_increase():
    with serve_on_port(make_parts()) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            found = await counts(client)
    assert {name: found.get(name) for name in BEGIN_AT_ZERO} == dict.fromkeys(BEGIN_AT_ZERO, 0.0)


async def test_ready_is_what_readyz_says():
    parts = make_parts()
    with serve_on_port(parts, stall_s=0.3) as address:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            assert await gauge(client, "ready") == 1
            parts.engine.fault, parts.engine.fault_at = "hang", 0
            for _ in range(20):
                answer = await client.post("/generate", json={"prompt": QUESTION, "timeout_s": 0.1})
                if answer.status_code == 503:
                    break
            await becomes(client, 0, "ready")
            assert (await client.get("/readyz")).status_code == 503
            parts.engine.fault = "none"
            await becomes(client, 1, "ready")
            assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("fault", ["nan_scores", "missing_rows"])
async def test_a_service_that_never_became_ready_says_so(fault):
    with serve_on_port(make_parts(fault=fault, fault_at=0)) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert await gauge(client, "ready") == 0


async def test_a_file_of_keys_that_was_refused_shows_until_one_is_read(tmp_path):
    path = write_keys(tmp_path)
    with serve_on_port(make_parts(), api_keys_file=path) as address:
        async with httpx.AsyncClient(base_url=address, headers=show("metrics")) as client:
            assert await gauge(client, "api_keys_file_ok") == 1
            path.write_text("keys = [")
            await becomes(client, 0, "api_keys_file_ok")
            write_keys(tmp_path)
            await becomes(client, 1, "api_keys_file_ok")
