"""POST /generate as the contract's tests ask it, and when two answers are the same."""

import pytest

from tests.serving import QUESTION, read_events

SAMPLED = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.95, "seed": 5}


def body(**changes):
    sampling = {"max_tokens": 12, **changes.pop("sampling", {})}
    guard = {"return_tokens": True, **changes.pop("guard", {})}
    return {"prompt": QUESTION, "sampling": sampling, "guard": guard, **changes}


async def ask(client, **changes):
    answer = await client.post("/generate", json=body(**changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask_stream(client, **changes):
    answer = await client.post("/generate", json=body(stream=True, **changes))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read_events(answer.text)


def close(found, wanted):
    """Equal in everything but the last digits of numbers, which may depend on the batch."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        return found == pytest.approx(wanted, abs=1e-4)
    return found == wanted
