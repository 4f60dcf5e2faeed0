"""What a request may say: limits, strictness, and options that exclude each other."""

import pytest
from pydantic import ValidationError

from service.schemas.generate import GenerateRequest
from service.schemas.score import ScoreRequest


def accepts(**body):
    return GenerateRequest.model_validate({"prompt": "q", **body})


def refuses(match, **body):
    with pytest.raises(ValidationError, match=match):
        accepts(**body)


def test_defaults_are_those_of_the_contract():
    body = accepts()
    assert body.sampling.model_dump() == {
        "max_tokens": 128,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": None,
        "stop": [],
        "n": 1,
    }
    assert body.guard.model_dump() == {
        "probe": "default",
        "policy": "annotate",
        "threshold": None,
        "alpha": 1.0,
        "locator": "default",
        "return_tokens": False,
        "return_spans": True,
        "explain": False,
        "on_error": None,
    }
    assert (body.stream, body.stream_mode, body.timeout_s, body.request_id, body.raw) == (
        False,
        "immediate",
        60,
        None,
        False,
    )


@pytest.mark.parametrize(
    "sampling",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": "5"},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"n": 0},
        {"n": 9},
        {"seed": -1},
        {"seed": 2**63},
        {"stop": [""]},
        {"stop": ["x"] * 9},
        {"stop": "x"},
    ],
)
def test_sampling_out_of_bounds_is_refused(sampling):
    refuses("sampling", sampling=sampling)


@pytest.mark.parametrize(
    "guard",
    [
        {"alpha": -0.1},
        {"alpha": 3.1},
        {"alpha": float("inf")},
        {"threshold": 0},
        {"threshold": 1},
        {"threshold": -0.5},
        {"threshold": True},
        {"threshold": float("nan")},
        {"threshold": [0.5]},
        {"policy": "shrug"},
        {"locator": "oracle"},
        {"on_error": "hope"},
        {"return_tokens": 1},
        {"explain": True, "policy": "off"},
        {"policy": "suppress", "alpha": 1.5},
    ],
)
def test_guard_options_out_of_bounds_or_in_conflict_are_refused(guard):
    refuses("guard", guard=guard)


@pytest.mark.parametrize("threshold", [0.7, 1e-9, "fpr:0.05", "fpr:.05", "fpr:0.2", "fpr:0.000001"])
def test_a_threshold_is_a_risk_or_a_budget(threshold):
    assert accepts(guard={"threshold": threshold}).guard.threshold == threshold


@pytest.mark.parametrize(
    "threshold",
    ["0.7", "fpr", "fpr:", "fpr:5%", "fpr:1.0", "fpr:1", "fpr:-0.05", "fpr:nan", "fpr:0.05\n", "hunter2", ""],
)
def test_text_that_names_no_budget_is_one_problem_that_shows_the_form_and_not_the_text(threshold):
    with pytest.raises(ValidationError) as failure:
        accepts(guard={"threshold": threshold})
    (problem,) = failure.value.errors()
    assert problem["loc"] == ("guard", "threshold")
    assert problem["msg"] == 'give a risk between 0 and 1, or a budget such as "fpr:0.05"'


def test_exactly_one_prompt():
    messages = [{"role": "user", "content": "q"}]
    assert GenerateRequest.model_validate({"messages": messages}).question == "q"
    refuses("exactly one", messages=messages)
    with pytest.raises(ValidationError, match="exactly one"):
        GenerateRequest.model_validate({})
    with pytest.raises(ValidationError, match="raw goes with prompt"):
        GenerateRequest.model_validate({"messages": messages, "raw": True})
    with pytest.raises(ValidationError, match="last message"):
        GenerateRequest.model_validate({"messages": [*messages, {"role": "assistant", "content": "a"}]})


@pytest.mark.parametrize("policy", ["block", "abstain"])
def test_an_immediate_stream_never_leaks_what_a_policy_withholds(policy):
    refuses("leak", stream=True, guard={"policy": policy})
    accepts(stream=True, stream_mode="hold", guard={"policy": policy})
    accepts(guard={"policy": policy})


@pytest.mark.parametrize("field", ["timeout_s", "request_id"])
def test_odd_values_are_refused(field):
    refuses(field, **{field: {"timeout_s": 0, "request_id": "a\nb"}[field]})


def test_an_unknown_field_is_refused_without_repeating_it():
    with pytest.raises(ValidationError) as failure:
        accepts(sampling={"max_token": 3, "hunter2": 1})
    (problem,) = failure.value.errors()
    assert problem["loc"] == ("sampling",)
    assert "hunter2" not in problem["msg"]
    assert "max_tokens" in problem["msg"]


@pytest.mark.parametrize("policy", ["off", "block", "abstain", "suppress", "stop"])
def test_score_refuses_policies_that_need_a_generation(policy):
    with pytest.raises(ValidationError, match="no text to withhold"):
        ScoreRequest.model_validate({"prompt": "q", "response": "a", "guard": {"policy": policy}})


def test_score_needs_a_response():
    with pytest.raises(ValidationError, match="response_token_ids"):
        ScoreRequest.model_validate({"prompt": "q"})
