"""Give a label to a response that was served, and read what was counted."""

import asyncio

from tests.contract.asking import body


async def generate(client, **changes):
    answer = await client.post("/generate", json=body(**changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def label(client, response_id, name="hallucinated", **more):
    return await client.post("/feedback", json={"id": response_id, "label": name, **more})


async def metric(client, name):
    """The value of a sample; None where there is none."""
    text = (await client.get("/metrics")).text
    found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == name]
    return float(found[0]) if found else None


async def metric_becomes(client, name, wanted):
    for _ in range(200):
        if (found := await metric(client, name)) == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} is {found}, not {wanted}")
