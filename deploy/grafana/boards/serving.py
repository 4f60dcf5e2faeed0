"""Speed and load, as clients see them."""

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import PICKED, board, limits_of, lines, quantiles, rate

ASKING = 'route!~"/metrics|/livez|/readyz"'
FIRST_TOKEN_SLOWLY, _, _, FIRST_TOKEN_SLOW, *_ = limits_of("HguardFirstTokenSlow")
QUEUE_FULL, QUEUE_REFUSED = limits_of("HguardQueueSaturated")


def serving() -> dashboard.Dashboard:
    """Speed and load, as clients see them."""
    slow = "1 - job:hguard_first_tokens_good:rate{0} / job:hguard_first_tokens:rate{0}"
    failed = rate("hguard_requests_total", more=f'code=~"5..", {ASKING}')
    panels = [
        lines(
            "Requests by route",
            "A second; health checks and scrapes left out.",
            (rate("hguard_requests_total", "route", ASKING), "{{route}}"),
            unit="reqps",
        ),
        lines(
            "Requests by status",
            "429: refused, see below. 499: the client left. 503: not ready, draining, or not scored under "
            "fail_closed. A stream that failed counts with its error's status.",
            (rate("hguard_requests_total", "code", ASKING), "{{code}}"),
            unit="reqps",
        ),
        lines(
            "Time of a whole request",
            "95% of the requests are quicker, until the last byte, by route.",
            *quantiles(
                "hguard_request_duration_seconds", 0.95, by="route", picked=f'{{instance=~"$instance", {ASKING}}}'
            ),
            unit="s",
        ),
        lines(
            "Share of requests that failed",
            "Status 5xx, of all.",
            (f"({failed} or vector(0)) / {rate('hguard_requests_total', more=ASKING)}", "failed"),
            is_share=True,
        ),
        lines(
            "Time to first token",
            "From the moment a request is let into the engine, before any holding; waiting in the queue is not in it.",
            *quantiles("hguard_time_to_first_token_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        lines(
            "First tokens over 2.5 s",
            "The objective is 1%. The line is where HguardFirstTokenSlow wakes somebody, if both windows are over it.",
            (slow.replace("{0}", "5m"), "5 minutes"),
            (slow.replace("{0}", "1h"), "1 hour"),
            limit=FIRST_TOKEN_SLOW,
            is_share=True,
        ),
        lines(
            "First tokens over 2.5 s, slowly",
            "The same over longer windows; the line is the warning's.",
            (slow.replace("{0}", "30m"), "30 minutes"),
            (slow.replace("{0}", "6h"), "6 hours"),
            limit=FIRST_TOKEN_SLOWLY,
            is_share=True,
        ),
        lines(
            "Between two tokens",
            "How long a stream waits for its next token, in the engine.",
            *quantiles("hguard_inter_token_latency_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        lines(
            "Tokens a second",
            "Generated (those not served included), and of prompts.",
            (rate("hguard_generation_tokens_total"), "generated"),
            (rate("hguard_prompt_tokens_total"), "prompts"),
            unit="short",
        ),
        lines(
            "Requests at work and waiting",
            "Waiting: the engine is full. At the capacity of the queue, more get 429.",
            (f"sum(hguard_requests_running{PICKED})", "at work"),
            (f"sum(hguard_requests_waiting{PICKED})", "waiting"),
            (f"sum(hguard_queue_capacity{PICKED})", "capacity of the queue"),
        ),
        lines(
            "Use of the queue",
            "Waiting requests over capacity. Alert: HguardQueueSaturated, after 5 minutes over the line.",
            (f"instance:hguard_queue_usage:ratio{PICKED}", "{{instance}}"),
            limit=QUEUE_FULL,
            is_share=True,
        ),
        lines(
            "Requests refused by the queue",
            "Share of requests that got 429 queue_full. Alert: HguardQueueSaturated, after 5 minutes over the line.",
            (f"instance:hguard_queue_refused:ratio_rate5m{PICKED}", "{{instance}}"),
            limit=QUEUE_REFUSED,
            is_share=True,
        ),
        lines(
            "Time in the queue",
            "How long requests waited to be let in.",
            *quantiles("hguard_queue_duration_seconds", 0.5, 0.95),
            unit="s",
        ),
        lines(
            "Requests sent away",
            "queue_full and rate_limited: 429. draining: 503, the server shuts down.",
            (rate("hguard_admission_rejections_total", "reason"), "{{reason}}"),
            unit="reqps",
        ),
        lines(
            "How long held tokens wait",
            "With stream_mode hold a token leaves once its sentence was judged.",
            *quantiles("hguard_hold_delay_seconds", 0.5, 0.95),
            unit="s",
        ),
        lines(
            "Clients that left",
            "Before their answer was whole; their generation ends within one step.",
            (rate("hguard_client_disconnects_total"), "left"),
            unit="reqps",
        ),
        lines(
            "Instances that shut down",
            "1 while an instance finishes what it took and refuses new requests.",
            (f"hguard_draining{PICKED}", "{{instance}}"),
        ),
    ]
    return board("hguard-serving", "hguard: serving", "Speed and load, as clients see them.", panels)
