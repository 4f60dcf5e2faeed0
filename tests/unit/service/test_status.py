"""What the service says of itself."""

from dataclasses import replace

from probes.artifact import save_artifact
from service.engines.fake_probe import fake_artifact
from tests.serving import QUESTION, make_parts

NAMES = (
    "requests_total",
    "request_duration_seconds",
    "queue_duration_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "prompt_tokens_total",
    "generation_tokens_total",
    "requests_running",
    "requests_waiting",
    "queue_capacity",
    "draining",
    "admission_rejections_total",
    "engine_stalled",
    "event_loop_tasks",
    "client_disconnects_total",
    "response_risk",
    "token_risk",
    "scoring_duration_seconds",
    "scored_responses_total",
    "scoring_failures_total",
    "fail_open_total",
    "actions_total",
    "suppressed_requests_total",
    "golden_trace_ok",
    "golden_trace_max_error",
    "probe_info",
    "build_info",
    "probe_loads_total",
    "probe_last_load_timestamp_seconds",
)


def values(text):
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")
    }


async def test_metrics_have_the_names_of_the_contract_and_count(serve):
    client = await serve()
    answer = (await client.post("/generate", json={"prompt": QUESTION})).json()
    text = (await client.get("/metrics")).text
    for name in NAMES:
        assert f"# TYPE hguard_{name} " in text or f"# TYPE hguard_{name.removesuffix('_total')} " in text
    found = values(text)
    assert found["hguard_prompt_tokens_total"] == answer["usage"]["prompt_tokens"]
    assert found["hguard_generation_tokens_total"] == answer["usage"]["completion_tokens"]
    assert found["hguard_scored_responses_total"] == 1
    assert found['hguard_response_risk_sum{probe="fake@0",role="active"}'] == answer["risk"]
    assert found['hguard_token_risk_count{probe="fake@0",role="active"}'] == len("Paris")
    assert found['hguard_actions_total{action="none",policy="annotate"}'] == 1
    assert found["hguard_inter_token_latency_seconds_count"] == answer["usage"]["completion_tokens"] - 1
    assert found["hguard_requests_running"] == 0


async def test_paths_that_nobody_serves_do_not_grow_the_metrics(serve):
    client = await serve()
    for at in range(3):
        await client.get(f"/secret-{at}")
    found = values((await client.get("/metrics")).text)
    assert found['hguard_requests_total{action="none",code="404",route="other"}'] == 3
    assert not any("secret" in name for name in found)


async def test_prometheus_gets_the_format_that_it_asks_for(serve):
    client = await serve()
    answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_two_applications_count_apart(serve):
    one, other = await serve(), await serve(make_parts())
    await one.post("/generate", json={"prompt": QUESTION})
    assert values((await other.get("/metrics")).text)["hguard_scored_responses_total"] == 0


async def test_the_fake_engine_shows_itself(serve):
    client = await serve()
    version = (await client.get("/version")).json()
    assert (version["engine"], version["model"]) == ("fake", "fake")
    assert "<title>hguard" in (await client.get("/")).text


async def test_probes_lists_the_served_one_first(serve, tmp_path):
    artifact = fake_artifact()
    probe = replace(artifact.probe, name="other", version="2")
    other = replace(artifact, probe=probe, card={"auroc": [0.8, 0.7, 0.9], "ece": "unknown"})
    save_artifact(tmp_path / "other" / "2", other, "card")
    (tmp_path / "damaged" / "1").mkdir(parents=True)
    (tmp_path / "damaged" / "1" / "probe.json").write_text("{")
    client = await serve(probes_dir=tmp_path)
    entries = (await client.get("/probes")).json()["probes"]
    assert [(entry["name"], entry["state"]) for entry in entries[:2]] == [("fake", "active"), ("other", "available")]
    refused = {entry["name"]: entry["reason"] for entry in entries[2:] if entry["state"] == "refused"}
    assert "probe.safetensors" in refused["damaged"]
    assert "architecture" in refused["smollm2-135m-instruct"]  # the shipped probe is of another model
    assert (entries[1]["auroc"], entries[1]["auroc_interval"]) == (0.8, [0.7, 0.9])
    assert (entries[1]["calibration_error"], entries[1]["calibration_error_interval"]) == (None, None)
    assert entries[0]["h_neurons"] == 2
    assert entries[0]["risk_parts"] == {"cett": 1.0, "residual": 0.5, "min_logprob": -0.5}
    assert entries[0]["budgets"] == [
        {"fpr": 0.05, "threshold": 0.9, "low": 0.8, "high": 1.0},
        {"fpr": 0.1, "threshold": 0.8, "low": 0.6, "high": 0.9},
    ]
    assert entries[0]["model"]["architecture"] == "Fake"


async def test_the_openapi_document_knows_every_route(serve):
    client = await serve()
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/generate", "/score", "/probes", "/livez", "/readyz", "/metrics", "/version", "/"} <= paths.keys()
    assert "text/event-stream" in paths["/generate"]["post"]["responses"]["200"]["content"]
