"""Each metric of the contract moves by the right amount in the case that it counts, and no other does (real server)."""

from contextlib import suppress
from math import inf

import httpx
import pytest

from service.engines.fake import fake_cett
from tests.contract.metric_cases import CASES, generated, http
from tests.contract.metric_deltas import becomes, counts, families, gauge, moved, settled
from tests.serving import QUESTION, make_parts, serve_on_port

CONTRACT = {
    "requests_total": ("counter", {"route", "code", "action"}),
    "request_duration_seconds": ("histogram", {"route"}),
    "queue_duration_seconds": ("histogram", set()),
    "time_to_first_token_seconds": ("histogram", set()),
    "inter_token_latency_seconds": ("histogram", set()),
    "prompt_tokens_total": ("counter", set()),
    "generation_tokens_total": ("counter", set()),
    "requests_running": ("gauge", set()),
    "requests_waiting": ("gauge", set()),
    "queue_capacity": ("gauge", set()),
    "draining": ("gauge", set()),
    "admission_rejections_total": ("counter", {"reason"}),
    "client_disconnects_total": ("counter", set()),
    "response_risk": ("histogram", {"probe", "role"}),
    "token_risk": ("histogram", {"probe", "role"}),
    "scoring_duration_seconds": ("histogram", {"stage"}),
    "scored_responses_total": ("counter", set()),
    "scoring_failures_total": ("counter", {"reason"}),
    "fail_open_total": ("counter", {"reason"}),
    "actions_total": ("counter", {"action", "policy"}),
    "suppressed_requests_total": ("counter", set()),
    "golden_trace_ok": ("gauge", set()),
    "golden_trace_max_error": ("gauge", set()),
    "risk_psi": ("gauge", set()),
    "risk_ece": ("gauge", set()),
    "feedback_total": ("counter", {"label"}),
    "shadow_disagreements_total": ("counter", set()),
    "probe_info": ("gauge", {"role", "name", "version", "sha256"}),
    "build_info": ("gauge", {"version", "engine", "model", "dtype"}),
    "probe_loads_total": ("counter", {"result"}),
    "probe_last_load_timestamp_seconds": ("gauge", set()),
    "audit_dropped_total": ("counter", set()),
}
MAY_BE_MISSING = {
    *("risk_psi", "risk_ece", "admission_rejections_total", "feedback_total"),  # no samples in this test
    "shadow_disagreements_total",  # the registry of probes
}
BOUNDED_LABELS = {
    *("route", "code", "action", "policy", "reason", "stage", "probe", "role", "name", "version", "sha256"),
    *("engine", "model", "dtype", "result", "label", "kind", "operation", "le"),
}


@pytest.fixture
def parts():
    return make_parts()


@pytest.mark.parametrize("name", CASES)
async def test_what_a_request_counts(name):
    case = CASES[name]
    parts = make_parts(reply=lambda _: case.reply)
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            before = await counts(client)
            parts.engine.fault = case.fault
            body = {"prompt": QUESTION, "guard": case.guard, **case.body}
            await client.request(case.method, case.path, json=body)
            assert moved(before, await settled(client, "", before)) == case.expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_counted_and_is_running_until_then(parts, stream):
    parts.engine.fault_at = 3
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            before = await counts(client)
            parts.engine.fault = "hang"
            async with httpx.AsyncClient(base_url=address) as leaving:
                with suppress(httpx.ReadTimeout):
                    await leaving.post("/generate", json={"prompt": QUESTION, "stream": stream}, timeout=0.3)
                running = await gauge(client, "requests_running")
            after = await settled(client, "/generate", before)
            assert moved(before, after) == http(code=499) | generated(3) | {"client_disconnects_total": 1}
            assert running <= 1
            assert await gauge(client, "requests_running") == 0


async def test_running_requests_are_shown_while_they_run(parts):
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            parts.engine.fault = "hang"
            async with client.stream("POST", "/generate", json={"prompt": QUESTION, "stream": True}) as answer:
                lines = answer.aiter_lines()  # httpx hangs up when the iterator is collected
                while await anext(lines) != "id: 1":
                    pass
                assert await gauge(client, "requests_running") == 1


async def test_the_start_says_what_is_served(parts):
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert await gauge(client, "build_info", engine="fake", model="fake", dtype="float32") == 1
            assert await gauge(client, "probe_info", name="fake", version="0", sha256="0" * 64) == 1
            assert await gauge(client, "golden_trace_ok") == 1
            assert 0 <= await gauge(client, "golden_trace_max_error") < 1e-3
            assert await gauge(client, "probe_last_load_timestamp_seconds") > 1.7e9
            assert (await counts(client))["probe_loads_total{result=ok}"] == 1


@pytest.mark.parametrize("fault", ["nan_scores", "missing_rows", "short_rows"])
async def test_a_probe_that_scores_wrongly_from_the_start_shows(fault):
    with serve_on_port(make_parts(fault=fault, fault_at=0)) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert await gauge(client, "golden_trace_ok") == 0
            assert await gauge(client, "golden_trace_max_error") == inf
            assert (await counts(client))["probe_loads_total{result=refused}"] == 1
            assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 503
            assert (await counts(client))["requests_total{action=none,code=503,route=/generate}"] == 1


async def test_an_engine_that_begins_to_score_wrongly_shows_by_how_much_and_until_when(parts, monkeypatch):
    with serve_on_port(parts, canary_s=0.02) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            with monkeypatch.context() as patched:
                patched.setattr("service.engines.fake.fake_cett", lambda *row: 1.5 * fake_cett(*row))
                await becomes(client, 0, "golden_trace_ok")
                assert 0.1 < await gauge(client, "golden_trace_max_error") < inf
                assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 503
            await becomes(client, 1, "golden_trace_ok")
            assert await gauge(client, "golden_trace_max_error") < 1e-3
            assert (await client.post("/generate", json={"prompt": QUESTION})).status_code == 200


async def test_every_metric_of_the_contract_is_there_with_its_type_and_labels(parts):
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            parts.engine.fault = "missing_rows"
            for on_error in ("fail_open", "fail_closed"):
                await client.post("/generate", json={"prompt": QUESTION, "guard": {"on_error": on_error}})
            parts.engine.fault = "none"
            await client.post("/generate", json={"prompt": QUESTION})
            found = await families(client)
    for name, (kind, labels) in CONTRACT.items():
        family = found.get("hguard_" + name.removesuffix("_total"))
        if family is None:
            assert name in MAY_BE_MISSING, name
            continue
        assert family.type == kind, name
        assert family.documentation, name
        if name not in MAY_BE_MISSING or family.samples:
            samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            assert {frozenset(sample.labels) - {"le"} for sample in samples} == {frozenset(labels)}, name
    ours = {name for name in found if name.startswith("hguard_") and not name.endswith("_created")}
    units = ("_seconds", "_bytes", "_ratio", "_info")
    for name in ours:
        assert not name.endswith(("_milliseconds", "_ms", "_minutes", "_kilobytes")), name
        assert found[name].type in ("counter", "histogram", "gauge"), name
        is_time = any(part in name for part in ("duration", "latency", "time_to", "timestamp"))
        assert not is_time or name.endswith(units), name
    used = {label for name in ours for sample in found[name].samples for label in sample.labels}
    assert used <= BOUNDED_LABELS
    for name in (
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ):
        assert name in found


async def test_labels_hold_nothing_that_a_client_chose(parts):
    secret = "hunter2"
    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            for path in (f"/{secret}", f"/generate/{secret}", f"/probes/{secret}", f"/livez?{secret}=1"):
                await client.get(path, headers={"x-request-id": secret, "user-agent": secret})
            for body in ({"model": secret}, {"guard": {"probe": secret}}, {"guard": {"policy": secret}}, {secret: 1}):
                await client.post("/generate", json={"prompt": secret, "request_id": secret, **body})
            await client.request(secret.upper(), "/generate")
            for _ in range(2):  # the first one counts itself
                before = (await client.get("/metrics")).text
            for at in range(20):
                await client.get(f"/{secret}/{at}")
            after = (await client.get("/metrics")).text
    assert secret not in before.lower()
    assert len(after.splitlines()) == len(before.splitlines())


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_a_scraper_can_parse_what_it_asked_for(parts, accept):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
    from prometheus_client.parser import text_string_to_metric_families as parse_text

    with serve_on_port(parts) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            await client.post("/generate", json={"prompt": QUESTION})
            answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(accept.split(";")[0])
    found = list((parse_openmetrics if "openmetrics" in accept else parse_text)(answer.text))
    risks = next(family for family in found if family.name == "hguard_response_risk")
    buckets = [sample for sample in risks.samples if sample.name.endswith("_bucket")]
    assert [sample.labels["le"] for sample in buckets][-2:] == ["1.0", "+Inf"]
    assert buckets[-1].value == buckets[-2].value == 1
