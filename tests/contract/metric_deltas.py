"""Reading /metrics: every sample that counts something, and by how much it moved."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

OWN_ROUTE = ("route", "/metrics")


async def families(client):
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def key(sample):
    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
    name = sample.name.removeprefix("hguard_")
    return f"{name}{{{labels}}}" if labels else name


async def counts(client):
    """Name and labels -> value, of counters and of the number of observations of histograms; ours, but for /metrics."""
    return {
        key(sample): sample.value
        for family in (await families(client)).values()
        if family.name.startswith("hguard_") and family.type in ("counter", "histogram")
        for sample in family.samples
        if sample.name.endswith(("_total", "_count")) and OWN_ROUTE not in sample.labels.items()
    }


async def gauge(client, metric, **labels):
    samples = (await families(client))[f"hguard_{metric}"].samples
    return next(sample.value for sample in samples if labels.items() <= sample.labels.items())


def moved(before, after):
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


async def settled(client, route, before):
    """The counts once a request has ended on the server, which may be after its last byte."""
    for _ in range(500):
        after = await counts(client)
        if any(name.startswith("requests_total") and f"route={route}" in name for name in moved(before, after)):
            return after
        await asyncio.sleep(0.01)
    raise AssertionError("the request did not end")


async def becomes(client, value, metric, **labels):
    """Wait for a gauge to have a value."""
    for _ in range(500):
        if await gauge(client, metric, **labels) == value:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{metric} is not {value}")
