"""Metrics: the Prometheus series of one application, in its own registry. Labels are bounded: no prompt, no id."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from service.guard.judgement import FailureReason, Judgement
from service.guard.policy import Action, Policy

_RISKS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Finer at the ends, where the thresholds of small budgets lie."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ACTIVE = "active"
"""Role of the served probe in risk labels."""


class Metrics:
    """Every series, named as in the HTTP contract."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"hguard_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"hguard_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"hguard_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests_total", "HTTP requests.", "route", "code", "action")
        self.duration = histogram("request_duration_seconds", "Whole requests.", _SECONDS, "route")
        self.queue = histogram("queue_duration_seconds", "Waiting for admission to the engine.", _SECONDS)
        self.first_token = histogram("time_to_first_token_seconds", "Until the engine's first token.", _SECONDS)
        self.inter_token = histogram("inter_token_latency_seconds", "Between two tokens.", _STEP_SECONDS)
        self.prompt_tokens = counter("prompt_tokens_total", "Tokens of prompts.")
        self.generation_tokens = counter("generation_tokens_total", "Tokens generated, those not served included.")
        self.running = gauge("requests_running", "Requests at work.")
        self.waiting = gauge("requests_waiting", "Requests in the queue.")
        self.queue_capacity = gauge("queue_capacity", "Requests that the queue holds at most.")
        self.rejections = counter("admission_rejections_total", "Requests sent away before any work.", "reason")
        self.ready = gauge("ready", "1: /readyz says 200.")
        self.starting = gauge("starting", "1: model and probe are being loaded and proved for the first time.")
        self.draining = gauge("draining", "1: the server shuts down and takes no more requests.")
        self.stalled = gauge("engine_stalled", "1: requests run and no token comes.")
        self.tasks = gauge("event_loop_tasks", "Tasks of the event loop.")
        self.steps = 0
        """Steps and score passes of requests that came back from the engine, for the watchdog."""
        self.disconnects = counter("client_disconnects_total", "Clients that left before their answer.")
        self.response_risk = histogram("response_risk", "Risk of scored responses.", _RISKS, "probe", "role")
        self.token_risk = histogram("token_risk", "Risk of answer tokens.", _RISKS, "probe", "role")
        self.scoring = histogram("scoring_duration_seconds", "Scoring one response.", _STEP_SECONDS, "stage")
        self.hold_delay = histogram("hold_delay_seconds", "From a held token to its release.", _SECONDS)
        self.scored = counter("scored_responses_total", "Responses that got a risk.")
        self.scoring_failures = counter("scoring_failures_total", "Responses that could not be scored.", "reason")
        self.fail_open = counter("fail_open_total", "Responses served although they could not be scored.", "reason")
        self.prompts_forgotten = counter(
            "prompts_forgotten_total", "Prompts whose answer nobody had judged when they went.", "reason"
        )
        self.actions = counter("actions_total", "What the policy did.", "action", "policy")
        self.suppressed = counter("suppressed_requests_total", "Responses generated again with alpha below 1.")
        self.audit_dropped = counter("audit_dropped_total", "Requests that are missing in the audit log.")
        self.golden_ok = gauge("golden_trace_ok", "1: the engine reproduces the artifact's scores.")
        self.golden_error = gauge("golden_trace_max_error", "Largest error of the last golden trace.")
        self.golden_time = gauge("golden_trace_last_ok_timestamp_seconds", "When the golden trace last passed.")
        self.golden_failures = counter(
            "golden_trace_failures_total", "Golden traces that failed while serving.", "role"
        )
        self.shadow_disagreements = counter(
            "shadow_disagreements_total",
            "Responses on which active and shadow decide differently, each by its threshold.",
        )
        self.shadow_failures = counter("shadow_failures_total", "Responses that the shadow could not score.", "reason")
        self.probe_info = gauge("probe_info", "1, with the probe in each role.", "role", "name", "version", "sha256")
        self.build_info = gauge("build_info", "1, with what runs.", "version", "engine", "model", "dtype")
        self.probe_loads = counter("probe_loads_total", "Probes loaded or refused.", "result")
        self.key_loads = counter("api_key_loads_total", "Changed files of API keys, read or refused.", "result")
        self.keys_ok = gauge("api_keys_file_ok", "0: the last change of the file of API keys was refused.")
        self.keys_ok.set(1)
        self.probe_load_time = gauge("probe_last_load_timestamp_seconds", "When a probe was last loaded.")
        self.feedback = counter("feedback_total", "Responses that were labelled, by their first label.", "label")
        self.feedback_failures = counter(
            "feedback_failures_total",
            "Labels answered with 503, and served responses that could not be kept for one.",
            "operation",
        )
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Begin labelled counters that have an alert at 0: a series' first value is no increase to Prometheus."""
        reasons = get_args(FailureReason)
        for counter, values in (
            (self.scoring_failures, reasons),
            (self.fail_open, reasons),
            (self.shadow_failures, (*reasons, "too_slow")),
            (self.rejections, ("queue_full", "rate_limited", "draining")),
            (self.golden_failures, ("active", "canary", "shadow")),
            (self.probe_loads, ("ok", "refused")),
            (self.key_loads, ("ok", "failed")),
            (self.feedback_failures, ("label", "remember")),
            (self.prompts_forgotten, ("expired", "evicted")),
        ):
            for value in values:
                counter.labels(value)

    def record_judgement(self, judgement: Judgement, probe: str, role: str = ACTIVE) -> None:
        """Count a judged response and its risks."""
        if judgement.status == "failed":
            self.scoring_failures.labels(judgement.failure).inc()
        if judgement.risk is None:
            return
        self.scored.inc()
        self.observe_risks(judgement, probe, role)

    def observe_risks(self, judgement: Judgement, probe: str, role: str) -> None:
        """Take in the risks of a judged response and its answer tokens, as one probe sees them."""
        if judgement.risk is None:
            return
        self.response_risk.labels(probe, role).observe(judgement.risk)
        answer = {at for part in judgement.spans for at in range(part.span.start, part.span.end)}
        observed = self.token_risk.labels(probe, role)
        for score in (judgement.token_scores[at] for at in answer):
            if score.risk is not None:
                observed.observe(score.risk)

    def record_action(self, action: Action, policy: Policy) -> None:
        """Count what was done with a response."""
        self.actions.labels(action, policy).inc()
