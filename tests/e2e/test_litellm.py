"""LiteLLM's gateway, a real process, with hguard, another one, as its guardrail, as deploy/integrations says.

What LiteLLM does by itself (who is let past when hguard is down, what of a stream leaves) is pinned here, too:
docs/reliability.md rests on it.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import yaml

from tests.e2e.litellm_gateway import MASTER_KEY, running, start_gateway, start_hguard
from tests.e2e.upstream import serve_upstream
from tests.serving import QUESTION

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "deploy" / "integrations" / "litellm.yaml"
STREAM_OPTIONS = ("streaming_transform_mode", "streaming_end_of_stream_only")
CLEAN = "It is Paris and it has been so for hundreds of years now."
RISKY = "It has been the old harbour town of Marseille since the year 1602."
"""Risks 0.52 and 0.81 by the fake engine's formula; the example blocks from 0.7 on."""
BLOCKED = "hguard blocked this answer: hallucination risk 0.81 is not below the threshold 0.70"


def variants(example, hguard):
    """The example's guardrail in other settings, each for requests that name it, and hguard as a model, too."""
    (guardrail,) = example["guardrails"]
    params = {**guardrail["litellm_params"], "default_on": False}
    sampled = {name: value for name, value in params.items() if name not in STREAM_OPTIONS}
    chosen = {
        "same": params,
        "fail_open": {**params, "unreachable_fallback": "fail_open"},
        "sampled": sampled,
        "at_end": {**sampled, "streaming_end_of_stream_only": True},
        "post_only": {**params, "mode": "post_call"},
        "flag": {**params, "additional_provider_specific_params": {"policy": "flag", "threshold": 0.7}},
    }
    itself = {"model": "openai/fake", "api_base": f"{hguard}/v1", "api_key": "none"}
    return {
        **example,
        "model_list": [*example["model_list"], {"model_name": "itself", "litellm_params": itself}],
        "guardrails": [{"guardrail_name": name, "litellm_params": params} for name, params in chosen.items()],
        "router_settings": {"disable_cooldowns": True},
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The example as it is, its variants, hguard behind both and the model behind all."""
    folder = tmp_path_factory.mktemp("litellm")
    others = folder / "variants.yaml"
    with serve_upstream() as upstream:
        hguard = start_hguard(folder)
        others.write_text(json.dumps(variants(yaml.safe_load(EXAMPLE.read_text()), hguard.address)))
        places = {"upstream": upstream.address, "hguard": hguard.address}
        gateways = [start_gateway(config, folder, **places) for config in (EXAMPLE, others)]
        with running(hguard, *gateways):
            clients = [
                openai.OpenAI(base_url=f"{gateway.address}/v1", api_key=MASTER_KEY, max_retries=0, timeout=60)
                for gateway in gateways
            ]
            yield SimpleNamespace(upstream=upstream, hguard=hguard, example=clients[0], variants=clients[1])


@pytest.fixture
def say(stack):
    def choose(text):
        stack.upstream.reply, stack.upstream.calls, stack.upstream.before_reply = text, 0, lambda: None

    choose("")
    return choose


def ask(client, guardrail=None, model="guarded", **more):
    body = {"guardrails": [guardrail]} if guardrail else {}
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model=model, messages=messages, extra_body=body, **more)


def read_stream(client, guardrail=None):
    """The texts that came, and the error that ended them or None."""
    texts = []
    try:
        for chunk in ask(client, guardrail, stream=True):
            texts += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    except openai.APIError as error:
        return texts, error
    return texts, None


def counted(stack):
    lines = httpx.get(f"{stack.hguard.address}/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def risk_of(stack, answer):
    asked = {"messages": [{"role": "user", "content": QUESTION}], "response": answer}
    return httpx.post(f"{stack.hguard.address}/score", json=asked).json()["risk"]


def test_a_clean_answer_passes_judged_against_its_prompt(stack, say):
    before = counted(stack)
    say(CLEAN)
    assert ask(stack.example).choices[0].message.content == CLEAN
    risk = 'hguard_response_risk_sum{probe="fake@0",role="active"}'
    assert counted(stack)[risk] - before.get(risk, 0.0) == pytest.approx(risk_of(stack, CLEAN))


def test_a_risky_answer_is_an_error_that_names_hguard(stack, say):
    say(RISKY)
    with pytest.raises(openai.BadRequestError) as failure:
        ask(stack.example)
    assert failure.value.body["message"].startswith(BLOCKED)
    assert "Marseille" not in failure.value.response.text
    assert stack.upstream.calls == 1


@pytest.mark.parametrize(("stream", "text"), [(False, CLEAN), (True, CLEAN), (False, RISKY)])
def test_the_client_labels_an_answer_by_the_id_of_its_call(stack, say, stream, text):
    say(text)
    asked = {"model": "guarded", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    answer = httpx.post(f"{stack.example.base_url}chat/completions", json=asked, headers=headers, timeout=60)
    assert answer.status_code == (200 if text == CLEAN else 400)
    said = {"id": f"litellm-{answer.headers['x-litellm-call-id']}", "label": "faithful"}
    said["span"] = {"start": 0, "end": len(text)}  # the whole text was judged, not the beginning of a stream
    labelled = httpx.post(f"{stack.hguard.address}/feedback", json=said)
    assert labelled.status_code == 200, labelled.text


def test_the_example_holds_a_stream_until_its_answer_was_judged(stack, say):
    say(CLEAN)
    texts, error = read_stream(stack.example)
    assert ("".join(texts).strip(), error, len(texts)) == (CLEAN, None, 1)
    say(RISKY)
    texts, error = read_stream(stack.example)
    assert texts == []
    assert isinstance(error, openai.BadRequestError)
    assert error.body["message"].startswith(BLOCKED)


def test_without_its_stream_options_the_beginning_has_left_before_the_error(stack, say):
    say(RISKY)
    texts, error = read_stream(stack.variants, "sampled")
    assert "harbour" in "".join(texts)
    assert "1602" not in "".join(texts)
    assert BLOCKED in str(error)
    texts, error = read_stream(stack.variants, "at_end")
    assert "".join(texts).strip() == RISKY
    assert BLOCKED in str(error)


def test_a_streamed_text_completion_is_never_judged_by_litellm(stack, say):
    """The prompt comes and no answer follows: hguard_prompts_forgotten_total tells, once the prompt is too old."""
    say(RISKY)
    with pytest.raises(openai.BadRequestError, match="hguard blocked"):
        stack.example.completions.create(model="guarded", prompt=QUESTION)
    judged = counted(stack)["hguard_scored_responses_total"]
    chunks = stack.example.completions.create(model="guarded", prompt=QUESTION, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks).strip() == RISKY
    assert counted(stack)["hguard_scored_responses_total"] == judged


def test_flag_serves_a_risky_answer_and_counts_it(stack, say):
    say(RISKY)
    flagged = 'hguard_actions_total{action="flagged",policy="flag"}'
    before = counted(stack).get(flagged, 0.0)
    assert ask(stack.variants, "flag").choices[0].message.content == RISKY
    assert counted(stack)[flagged] == before + 1


def test_a_guardrail_that_never_gets_the_prompt_blocks_and_says_what_is_missing(stack, say):
    say(CLEAN)
    with pytest.raises(openai.BadRequestError, match=r"unscored, prompt_not_remembered .* pre_call and post_call"):
        ask(stack.variants, "post_only")


def test_hguard_is_the_model_and_its_guardrail(stack):
    if httpx.get(f"{stack.hguard.address}/v1/models").status_code == 404:
        pytest.skip("hguard has no OpenAI-compatible routes yet")
    assert ask(stack.variants, "flag", model="itself").choices[0].message.content == "The answer is Paris."
    with pytest.raises(openai.BadRequestError, match=r"hguard blocked .* risk 0\.75 is not below"):
        ask(stack.variants, "same", model="itself")


def test_hguard_down_is_no_answer_under_fail_closed_and_every_answer_under_fail_open(stack, say):
    say(RISKY)
    stack.upstream.before_reply = stack.hguard.kill
    try:
        with pytest.raises(openai.InternalServerError, match="Guardrail API failed") as failure:
            ask(stack.example)  # it dies after it got the prompt
        assert stack.upstream.calls == 1
        assert "Marseille" not in failure.value.response.text
        with pytest.raises(openai.InternalServerError, match="Guardrail API failed"):
            ask(stack.example)
        texts, error = read_stream(stack.example)
        assert texts == []
        assert isinstance(error, openai.InternalServerError)
        assert stack.upstream.calls == 1
        messages = [{"role": "user", "content": QUESTION}]
        unguarded = stack.variants.chat.completions.with_raw_response.create(
            model="guarded", messages=messages, extra_body={"guardrails": ["fail_open"]}
        )
        assert unguarded.parse().choices[0].message.content == RISKY
        assert unguarded.headers["x-litellm-applied-guardrails"] == "fail_open"  # so that header is no proof
    finally:
        stack.upstream.before_reply = lambda: None
        stack.hguard.start()
        stack.hguard.wait()
    with pytest.raises(openai.BadRequestError, match="hguard blocked"):
        ask(stack.example)
