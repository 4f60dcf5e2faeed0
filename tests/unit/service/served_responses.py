"""Rows as the service remembers them."""

import time

from service.feedback.served_response import ServedResponse
from service.feedback.store import Label

SHA = "0" * 64


def make_row(number, **changes):
    """One remembered response; a higher number is a younger one."""
    fields = {
        "id": f"gen-{number:024x}",
        "choice": 0,
        "created": time.time() - 10_000 + number,
        "model": "fake",
        "model_sha256": "1" * 64,
        "probe": "fake@0",
        "probe_sha256": SHA,
        "status": "scored",
        "risk": (number % 100) / 100,
        "logit": 0.5,
        "threshold": 0.5,
        "policy": "annotate",
        "action": "none",
        "alpha": 1.0,
        "is_calibrated": True,
        "parts": {"cett": 0.1 + number, "length": 3.0},
        "spans": [{"token_start": 0, "token_end": 2, "start": 0, "end": 5, "risk": 0.5}],
        "text_length": 20,
        "question": None,
        "response": None,
    }
    return ServedResponse(**{**fields, **changes})


def check_replacing(store):
    """The youngest row of a name stays, in whatever order they come, until it has a label."""

    def row(risk, age):
        return make_row(1, risk=risk, created=time.time() - age)

    store.write([row(0.1, 50), row(0.2, 40)])
    store.write([row(0.3, 30)])
    store.write([row(0.4, 60)])  # waited for the database
    store.set_label(Label(make_row(1).id, 0, "hallucinated", None))
    store.write([row(0.5, 10)])
    assert [(found["risk"], found["label"]) for found in store.export()] == [(0.3, "hallucinated")]
