"""What the process uses."""

from grafana_foundation_sdk.models import dashboard

from deploy.grafana.panels import PICKED, board, lines, names, number


def resources() -> dashboard.Dashboard:
    """What the process uses."""
    panels = [
        names(
            "What runs",
            "Version, engine, model and number format of each instance.",
            (f"hguard_build_info{PICKED}", "{{instance}}: hguard {{version}}, {{engine}}, {{model}}, {{dtype}}"),
        ),
        number(
            "Running for",
            "Since the process started. Near 0 again and again: it restarts.",
            (f"time() - process_start_time_seconds{PICKED}", "{{instance}}"),
            unit="s",
        ),
        number(
            "Can be scraped",
            "Whether Prometheus reached the instance. Alerts: HguardDown, HguardNotStarted.",
            ('up{job="hguard", instance=~"$instance"}', "{{instance}}"),
            states=["!down", "up"],
        ),
        lines(
            "Memory",
            "Resident memory of the service's own process; vLLM's workers and GPU memory are not in it.",
            (f"process_resident_memory_bytes{PICKED}", "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "CPU",
            "Cores that the process uses.",
            (f"rate(process_cpu_seconds_total{PICKED}[$__rate_interval])", "{{instance}}"),
        ),
        lines(
            "File descriptors",
            "Open ones: about one a connection. A steady rise is a leak.",
            (f"process_open_fds{PICKED}", "{{instance}} open"),
            (f"process_max_fds{PICKED}", "{{instance}} limit"),
        ),
        lines(
            "Tasks of the event loop",
            "A few at rest and some for each request at work. A steady rise is a leak.",
            (f"hguard_event_loop_tasks{PICKED}", "{{instance}}"),
        ),
        lines(
            "Time of a scrape",
            "How long /metrics took. Long ones say that the event loop is blocked or the CPU is short.",
            ('scrape_duration_seconds{job="hguard", instance=~"$instance"}', "{{instance}}"),
            unit="s",
        ),
    ]
    return board("hguard-resources", "hguard: resources", "What the process uses.", panels)
