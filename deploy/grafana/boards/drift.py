"""Whether risks still look and behave as when the probe was calibrated."""

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import PICKED, board, limits_of, lines, rate


def drift() -> dashboard.Dashboard:
    """Whether risks still look and behave as when the probe was calibrated."""
    labelled = f"sum(hguard_feedback_total{PICKED})"
    hallucinated = labelled.replace("}", ', label="hallucinated"}')
    panels = [
        lines(
            "Shift of the risks (PSI)",
            "Population stability index: how far the last served risks are spread otherwise than when the probe "
            "was calibrated. Under 0.1: as before; over the line: HguardRiskDrift. Begins with 200 risks.",
            (f"hguard_risk_psi{PICKED}", "{{instance}}"),
            limit=limits_of("HguardRiskDrift")[0],
        ),
        lines(
            "Calibration error (ECE)",
            "How far risks are from the share of hallucinations among labelled responses. Over the line with "
            "200 labels: HguardCalibrationDrift. Begins with 100 labels; few labels read too high.",
            (f"hguard_risk_ece{PICKED}", "{{instance}}"),
            limit=limits_of("HguardCalibrationDrift")[0],
        ),
        lines(
            "Precision at the threshold",
            "Share of hallucinations among the labelled responses at or over the probe's threshold. Begins with "
            "20 of them.",
            (f"hguard_risk_precision{PICKED}", "{{instance}}"),
            is_share=True,
        ),
        lines(
            "Rows behind these numbers",
            "served: risks behind the shift; labelled: labels behind calibration error and precision.",
            (f"sum by (kind) (hguard_risk_window_rows{PICKED})", "{{kind}}"),
        ),
        lines(
            "Labels",
            "Responses that people labelled, since the start, by their first label.",
            (f"sum by (label) (hguard_feedback_total{PICKED})", "{{label}}"),
        ),
        lines(
            "Share labelled hallucinated",
            "Of the labels since the start. People label what strikes them: this is no share of all traffic.",
            (f"({hallucinated} or vector(0)) / {labelled}", "hallucinated"),
            is_share=True,
        ),
        lines(
            "Labels that failed",
            "label: /feedback answered 503. remember: responses that could not be kept for a label. Alert: "
            "HguardFeedbackFailing.",
            (rate("hguard_feedback_failures_total", "operation"), "{{operation}}"),
            unit="reqps",
        ),
    ]
    return board("hguard-drift", "hguard: drift", "Whether risks still look and behave as when calibrated.", panels)
