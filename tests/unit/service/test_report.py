"""What a client is shown."""

from service.choices.plan import GuardPlan
from service.choices.report import report_guard
from service.engines.fake_probe import fake_artifact
from service.guard.judge import judge
from tests.unit.service.responses import make_probe, make_response

PLAN = GuardPlan(
    policy="annotate",
    threshold=0.5,
    alpha=1.0,
    suppress_alpha=0.0,
    locator="default",
    question="q",
    explains=False,
    on_error="fail_closed",
    shows_tokens=True,
    shows_spans=True,
)


def report(text, scores, action="none"):
    response = make_response(text, scores)
    judgement = judge(response, make_probe(), question="q", locator="default")
    return report_guard(fake_artifact(), PLAN, response, judgement, action=action, alpha=1.0)


def test_a_span_is_shown_without_the_space_that_its_first_token_begins_with():
    (span,) = report(" Paris\n", [0.0] * 8).spans
    assert (span.text, span.start, span.end) == ("Paris", 1, 6)
    assert (span.token_start, span.token_end) == (0, 7)


def test_a_withheld_report_has_numbers_and_no_words():
    shown = report("Paris", [0.0] * 6, action="blocked")
    assert {token.text for token in shown.tokens} == {token.id for token in shown.tokens} == {None}
    assert shown.spans[0].text is None
    assert shown.tokens[0].risk is not None


def test_json_has_no_nan():
    assert "nan" not in report("ab", [0.0, float("nan"), 1.0]).model_dump_json().lower()
