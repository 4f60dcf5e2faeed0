"""A shadow sees what it would see if it served, and nobody sees the shadow."""

import threading
from dataclasses import replace

import pytest

from service.engines.base import RowEvidence
from service.engines.fake_probe import fake_artifact
from service.guard.judge import judge
from tests.contract.asking import ask, ask_stream, close
from tests.contract.switching import ask_score, ask_suppressed, lasting, versions
from tests.probe_library import (
    SETTINGS,
    activate,
    list_probes,
    list_states,
    read_metrics,
    rollback,
    turned,
    write_library,
)
from tests.serving import make_parts

PROMPTS = [f"Question {at}: what is the capital of France?" for at in range(6)]


def make_other(parts, engine_name, rule):
    """A probe of the same model by another position rule; on transformers of other neurons, too."""
    if engine_name == "fake":
        artifact = fake_artifact(position=rule, locator="response")
        return turned(replace(artifact, probe=replace(artifact.probe, threshold=0.6)), "2")
    from tests.contract.tiny import make_tiny_artifact

    return make_tiny_artifact(parts.engine, rule, version="2", first=6)


async def ask_all(client):
    """Answers of every kind, without what passes."""
    answers = [await ask(client, prompt=prompt, guard={"explain": True}) for prompt in PROMPTS]
    answers.append(await ask(client, sampling={"stop": ["is"]}))
    answers.append(await ask(client, sampling={"max_tokens": 3, "n": 2}))
    answers += [await ask_score(client)]
    return lasting(answers)


@pytest.mark.parametrize("rule", ["own", "predicting"])
async def test_its_risks_are_those_of_serving_it_and_the_answers_stay(serve, parts, engine_name, rule, tmp_path):
    other = make_other(parts, engine_name, rule)
    client = await serve(parts, probes_dir=write_library(tmp_path, other), **SETTINGS)
    alone = await ask_all(client)
    answer = await activate(client, other.probe, mode="shadow")
    assert answer.status_code == 200, answer.text
    assert (await list_states(client))["2"] == "shadow"
    assert close(await ask_all(client), alone)
    shadowed = await read_metrics(client)
    assert (await activate(client, other.probe)).status_code == 200
    served = await ask_all(client)
    assert versions(served) == {"2"}
    after = await read_metrics(client)
    label = f'{{probe="{other.probe.name}@2",role='
    for series in ("response_risk_sum", "response_risk_count", "token_risk_sum", "token_risk_count"):
        found = shadowed[f'hguard_{series}{label}"shadow"}}']
        assert found > 0
        assert found == pytest.approx(after[f'hguard_{series}{label}"active"}}'], rel=1e-4)
    assert "hguard_shadow_failures_total" not in "".join(name for name, value in after.items() if value)

    def decide(answers, threshold):
        guards = [choice["guard"] for one in answers for choice in one.get("choices", [one])]
        return [guard["risk"] >= threshold for guard in guards]

    pairs = zip(decide(alone, parts.artifact.probe.threshold), decide(served, other.probe.threshold), strict=True)
    assert shadowed["hguard_shadow_disagreements_total"] == sum(a != b for a, b in pairs)
    assert after["hguard_scored_responses_total"] == 3 * (len(PROMPTS) + 4)  # a shadow is no response


async def test_the_neurons_of_streamed_tokens_stay_those_of_the_probe_that_answers(serve, parts, engine_name, tmp_path):
    other = make_other(parts, engine_name, parts.artifact.probe.position)
    client = await serve(parts, probes_dir=write_library(tmp_path, other), **SETTINGS)

    async def stream():
        events = await ask_stream(client, guard={"explain": True})
        return [data for name, _, data in events if name == "token"]

    alone = await stream()
    assert all(len(token["explain"]) > 0 for token in alone)
    assert (await activate(client, other.probe, mode="shadow")).status_code == 200
    assert close(await stream(), alone)
    whole = (await ask(client, guard={"explain": True}))["choices"][0]["guard"]["tokens"]
    assert close([token["explain"] for token in whole], [token["explain"] for token in alone])


async def test_disagreements_are_counted(serve, tmp_path):
    other = turned(fake_artifact(locator="response"), "2")
    other = replace(other, probe=replace(other.probe, threshold=0.999))
    client = await serve(
        make_parts(locator="response", threshold=0.001), probes_dir=write_library(tmp_path, other), **SETTINGS
    )
    await activate(client, other.probe, mode="shadow")
    for _ in range(3):
        await ask(client)
    await ask(client, guard={"policy": "off"})
    metrics = await read_metrics(client)
    assert metrics["hguard_shadow_disagreements_total"] == 3
    assert metrics['hguard_response_risk_count{probe="fake@2",role="shadow"}'] == 3


async def test_hazard_alpha_scales_the_neurons_of_the_shadow(serve, parts, engine_name, tmp_path):
    other = make_other(parts, engine_name, parts.artifact.probe.position)
    client = await serve(parts, probes_dir=write_library(tmp_path, other), **SETTINGS)
    alone = lasting(await ask_suppressed(client))
    await activate(client, other.probe, mode="shadow")
    assert close(lasting(await ask_suppressed(client)), alone)


class TestFailures:
    """Of the shadow alone."""

    @pytest.fixture
    async def client(self, serve, tmp_path):
        self.parts = make_parts(locator="response")
        self.other = turned(self.parts.artifact, "2")
        client = await serve(self.parts, probes_dir=write_library(tmp_path, self.other), canary_s=0, **SETTINGS)
        self.alone = lasting(await ask(client))
        assert (await activate(client, self.other.probe, mode="shadow")).status_code == 200
        return client

    async def test_hazard_an_error_in_it_ends_the_answer(self, client, monkeypatch):
        def fail(response, probe, **options):
            if probe.version == "2":
                raise RuntimeError("no such part")
            return judge(response, probe, **options)

        monkeypatch.setattr("service.choices.judging.judge", fail)
        assert close(lasting(await ask(client)), self.alone)
        assert (await read_metrics(client))['hguard_shadow_failures_total{reason="scorer_error"}'] == 1

    async def test_hazard_its_nan_looks_like_an_agreement(self, client, monkeypatch):
        row = self.parts.engine._row

        def spoil(*arguments):
            found = row(*arguments)
            return RowEvidence((*found.scores[:2], *(float("nan") for _ in found.scores[2:])), found.neurons)

        monkeypatch.setattr(self.parts.engine, "_row", spoil)
        assert close(lasting(await ask(client)), self.alone)
        metrics = await read_metrics(client)
        assert metrics['hguard_shadow_failures_total{reason="not_finite"}'] == 1
        assert metrics["hguard_shadow_disagreements_total"] == 0
        assert not any("hguard_response_risk" in name and "shadow" in name for name in metrics)

    async def test_a_late_fault_rests_it_until_it_is_right_again(self, client, monkeypatch):
        places = client._transport.app.state.lifecycle.probes.places
        row = self.parts.engine._row
        with monkeypatch.context() as patch:
            patch.setattr(
                self.parts.engine,
                "_row",
                lambda *arguments: RowEvidence((*row(*arguments).scores[:2], 0.0, 0.0)),
            )
            await places.prove_again(1.0)
        assert (await client.get("/readyz")).status_code == 200
        entry = (await list_probes(client))["2"]
        assert (entry["state"], "standard deviations" in entry["reason"]) == ("shadow", True)
        assert close(lasting(await ask(client)), self.alone)
        metrics = await read_metrics(client)
        assert metrics['hguard_golden_trace_failures_total{role="shadow"}'] == 1
        assert not any("hguard_response_risk" in name and "shadow" in name for name in metrics)
        await places.prove_again(1.0)
        assert (await list_probes(client))["2"]["reason"] is None
        await ask(client)
        assert (await read_metrics(client))['hguard_response_risk_count{probe="fake@2",role="shadow"}'] == 1

    async def test_it_ends_when_it_is_told_to(self, client):
        assert (await rollback(client, "fake")).json()["error"]["code"] == "nothing_before"
        answer = await rollback(client, "fake", mode="shadow")
        assert (answer.status_code, answer.json()["probe"]["version"]) == (200, "2")
        assert await list_states(client) == {"0": "active", "2": "available"}
        assert close(lasting(await ask(client)), self.alone)
        assert not any("hguard_response_risk" in name and "shadow" in name for name in await read_metrics(client))
        assert (await rollback(client, "fake", mode="shadow")).json()["error"]["code"] == "not_served"


def deeper(artifact, version):
    """Reads the residual stream after another layer; the fake engine's stream is the same after each."""
    probe = replace(artifact.probe, version=version, residual=replace(artifact.probe.residual, layer=0))
    return replace(artifact, probe=probe)


async def test_another_layer_of_the_stream_is_refused_with_the_remedy(serve, tmp_path):
    parts = make_parts()
    other, third = deeper(parts.artifact, "2"), turned(parts.artifact, "3")
    client = await serve(parts, probes_dir=write_library(tmp_path, other, third), **SETTINGS)
    answer = await activate(client, other.probe, mode="shadow")
    assert answer.json()["error"]["code"] == "probe_refused"
    assert "after layer 1, its shadow after layer 0" in answer.text
    assert "serve it as a canary" in answer.text
    assert await list_states(client) == {"0": "active", "2": "refused", "3": "available"}
    # And a shadow keeps no probe from serving, nor a rollback from ending.
    assert (await activate(client, third.probe, mode="shadow")).status_code == 200
    assert (await activate(client, other.probe)).status_code == 200
    assert await list_states(client) == {"2": "active", "3": "refused"}
    assert "its shadow" in (await list_probes(client))["3"]["reason"]
    assert (await read_metrics(client))['hguard_probe_loads_total{result="refused"}'] == 2


async def test_a_probe_is_not_its_own_shadow(serve, tmp_path):
    other = turned(fake_artifact(), "2")
    client = await serve(probes_dir=write_library(tmp_path, other), **SETTINGS)
    await activate(client, other.probe)
    for mode in ({"mode": "shadow"}, {"mode": "canary", "percent": 5}):
        answer = await activate(client, other.probe, **mode)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "already_active")


async def test_hazard_a_slow_shadow_delays_or_fails_the_answer(serve, tmp_path, monkeypatch):
    other = turned(fake_artifact(locator="response"), "2")
    client = await serve(make_parts(locator="response"), probes_dir=write_library(tmp_path, other), **SETTINGS)
    await activate(client, other.probe, mode="shadow")
    may_end, judged = threading.Event(), judge

    def judge_slowly(response, probe, **options):
        if probe.version == "2":
            may_end.wait()
        return judged(response, probe, **options)

    monkeypatch.setattr("service.choices.judging.judge", judge_slowly)
    for _ in range(6):
        answer = await ask(client, timeout_s=5.0)
        assert answer["risk"] is not None
    monkeypatch.setattr("service.choices.shadow._MOST_WAITING", 1)
    await ask(client)
    may_end.set()
    metrics = await read_metrics(client)
    assert metrics['hguard_response_risk_count{probe="fake@2",role="shadow"}'] == 6
    assert metrics['hguard_shadow_failures_total{reason="too_slow"}'] == 1
