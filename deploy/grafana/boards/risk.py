"""What the guard says of the answers."""

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import PICKED, board, heat, limits_of, lines, quantiles, rate

ACTIVE = '{instance=~"$instance", probe=~"$probe", role="active"}'
BESIDE = '{instance=~"$instance", role=~"active|shadow|canary"}'
ACTING = 'policy!~"annotate|off"'


def _by_role(series: str, picked: str = BESIDE) -> str:
    return f"sum by (role, probe) (rate({series}{picked}[$__rate_interval]))"


def risk() -> dashboard.Dashboard:
    """What the guard says of the answers."""
    count = _by_role("hguard_response_risk_count")
    mean = f"{_by_role('hguard_response_risk_sum')} / {count}"
    low = BESIDE.replace("}", ', le="0.9"}')
    over = f"1 - {_by_role('hguard_response_risk_bucket', low)} / {count}"
    acted = rate("hguard_actions_total", more=f'action!="none", {ACTING}')
    asked = rate("hguard_actions_total", more=ACTING)
    panels = [
        heat(
            "Risk of responses",
            "Calibrated probability that an answer is a hallucination: each row is a range of risks (its upper "
            "end is named), each column a moment. One dark row for long: the risk tells no answer from another "
            "(HguardRiskCollapsed).",
            f"sum by (le) (increase(hguard_response_risk_bucket{ACTIVE}[$__rate_interval]))",
        ),
        heat(
            "Risk of answer tokens",
            "The same for the tokens of the claims that are judged.",
            f"sum by (le) (increase(hguard_token_risk_bucket{ACTIVE}[$__rate_interval]))",
        ),
        lines(
            "Risk of responses, quantiles",
            "10%, 50% and 90% of the responses have a lower risk; estimated inside the buckets.",
            *quantiles("hguard_response_risk", 0.1, 0.5, 0.9, picked=ACTIVE),
            is_share=True,
        ),
        lines(
            "Share of responses that were acted on",
            "Flagged, blocked, abstained, suppressed or stopped, of those under a policy that acts. Requests "
            "with annotate or off are left out.",
            (f"({acted} or vector(0)) / {asked}", "acted on"),
            is_share=True,
        ),
        lines(
            "What the policies did",
            "Responses a second by action.",
            (rate("hguard_actions_total", "action"), "{{action}}"),
            unit="reqps",
        ),
        lines(
            "Which policies are asked for",
            "Responses a second by the policy of the request or its key.",
            (rate("hguard_actions_total", "policy"), "{{policy}}"),
            unit="reqps",
        ),
        lines(
            "Mean risk, active against shadow",
            "A shadow far from the active probe would act on other responses if it served.",
            (mean, "{{role}} {{probe}}"),
            is_share=True,
        ),
        lines(
            "Responses over 0.9, active against shadow",
            "Share of responses with a risk over 0.9.",
            (over, "{{role}} {{probe}}"),
            is_share=True,
        ),
        lines(
            "Active and shadow disagree",
            "Share of the responses of 30 minutes on which one probe is over its own threshold and the other is "
            "not. Alert: HguardShadowDisagreement.",
            (f"instance:hguard_shadow_disagreements:ratio_rate30m{PICKED}", "{{instance}}"),
            limit=limits_of("HguardShadowDisagreement")[0],
            is_share=True,
        ),
        lines(
            "Responses the shadow could not score",
            "By reason; too_slow: too many of its judgements wait. Alert: HguardSecondProbeFailing.",
            (rate("hguard_shadow_failures_total", "reason"), "{{reason}}"),
            unit="reqps",
        ),
        lines(
            "Generated again under suppress",
            "Responses over the threshold that were generated a second time with the H-neurons scaled down. "
            "Experimental.",
            (rate("hguard_suppressed_requests_total"), "generated again"),
            unit="reqps",
        ),
    ]
    return board("hguard-risk", "hguard: risk", "What the guard says of the answers.", panels, has_probe=True)
