"""Whether the guard may be trusted now."""

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import PICKED, board, lines, names, number, quantiles, rate


def guard_health() -> dashboard.Dashboard:
    """Whether the guard may be trusted now."""
    panels = [
        number(
            "Ready",
            "1 while /readyz says 200: model and probe are loaded, the golden trace passed, tokens come. Alert: "
            "HguardNotReady.",
            (f"hguard_ready{PICKED}", "{{instance}}"),
            states=["!not ready", "ready"],
        ),
        number(
            "Golden trace",
            "Whether the running engine gives the probe's stored sequences their stored scores. If not, risks "
            "would be wrong. Alert: HguardGoldenTraceFailed.",
            (f"hguard_golden_trace_ok{PICKED}", "{{instance}}"),
            states=["!failed", "passed"],
        ),
        number(
            "Engine",
            "Stalled: requests run and no token comes. Alert: HguardTokenStall.",
            (f"hguard_engine_stalled{PICKED}", "{{instance}}"),
            states=["moves", "!stalled"],
        ),
        number(
            "File of API keys",
            "Refused: it was changed and cannot be read, so removed keys still open. Alert: HguardKeysFileRefused.",
            (f"hguard_api_keys_file_ok{PICKED}", "{{instance}}"),
            states=["!refused", "read"],
        ),
        number(
            "Alerts that fire",
            "Of hguard, in this Prometheus.",
            ('count(ALERTS{alertname=~"Hguard.+", alertstate="firing"}) or vector(0)', "alerts"),
        ),
        number(
            "Answers without a guard",
            "Served although they could not be scored (fail_open), in the chosen time. Anything but 0 is worth "
            "a look. Alert: HguardFailOpen.",
            (f"sum(increase(hguard_fail_open_total{PICKED}[$__range]))", "answers"),
        ),
        names(
            "Probes",
            "What is served (active), what is tried on a share of the requests (canary) and what is only "
            "measured (shadow).",
            (f"hguard_probe_info{PICKED}", "{{role}}: {{name}}@{{version}}"),
        ),
        lines(
            "Responses by what became of them",
            "Scored: they got a risk. Not scored: an error to the client, or served without a risk; the latter "
            "are also counted as served unguarded.",
            (rate("hguard_scored_responses_total"), "scored"),
            (rate("hguard_scoring_failures_total"), "not scored"),
            (rate("hguard_fail_open_total"), "served unguarded"),
            unit="reqps",
        ),
        lines(
            "Scoring failures by reason",
            "Why responses could not be scored; the runbook has the reasons. Alert: HguardScoringFailures.",
            (rate("hguard_scoring_failures_total", "reason"), "{{reason}}"),
            unit="reqps",
        ),
        lines(
            "Answers without a guard by reason",
            "Those of the failures that were served (fail_open). Alert: HguardFailOpen.",
            (rate("hguard_fail_open_total", "reason"), "{{reason}}"),
            unit="reqps",
        ),
        lines(
            "Golden trace, largest error",
            "How far the last golden trace was from the stored scores, in their standard deviations. Far under "
            "0.1 in float32, more with bfloat16; infinite where nothing could be measured.",
            (f"hguard_golden_trace_max_error{PICKED}", "{{instance}}"),
        ),
        lines(
            "Since the golden trace last passed",
            "Grows to HGUARD_CANARY_S (300 s) and falls back to 0. Growing on: it fails, or is turned off.",
            (f"time() - hguard_golden_trace_last_ok_timestamp_seconds{PICKED}", "{{instance}}"),
            unit="s",
        ),
        lines(
            "Golden traces that failed",
            "While serving, by the role of the probe. A canary or shadow that fails rests (alert: "
            "HguardSecondProbeFailing); the active one's makes the service not ready.",
            (f"sum by (role) (increase(hguard_golden_trace_failures_total{PICKED}[$__rate_interval]))", "{{role}}"),
        ),
        lines(
            "Time to score a response",
            "95% of responses are quicker. tap: reading neurons in the engine's passes; guard: locating and "
            "judging; teacher_forced: /score; shadow: the shadow's, beside the answer.",
            *quantiles("hguard_scoring_duration_seconds", 0.95, by="stage"),
            unit="s",
        ),
        lines(
            "Probes loaded and refused",
            "Refused: damaged, of another model, or its golden trace failed. Alert: HguardProbeLoadFailed.",
            (f"sum by (result) (increase(hguard_probe_loads_total{PICKED}[$__rate_interval]))", "{{result}}"),
        ),
        lines(
            "Changes of the file of API keys",
            "Read (ok) or not (failed).",
            (f"sum by (result) (increase(hguard_api_key_loads_total{PICKED}[$__rate_interval]))", "{{result}}"),
        ),
        lines(
            "What is missing in the records",
            "Requests not in the audit log, labels or responses that could not be kept, and prompts of "
            "LiteLLM's gateway whose answer never came. Alerts: HguardAuditDropped, HguardFeedbackFailing, "
            "HguardAnswersNotJudged.",
            (rate("hguard_audit_dropped_total"), "audit log"),
            (rate("hguard_feedback_failures_total", "operation"), "feedback: {{operation}}"),
            (rate("hguard_prompts_forgotten_total", "reason"), "prompts {{reason}}"),
            unit="reqps",
        ),
    ]
    return board("hguard-health", "hguard: guard health", "Whether the guard may be trusted now.", panels)
