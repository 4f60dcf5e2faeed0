"""OpenAI's own client against a server on a port, and what POST /generate says to the same question."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai

from service.lifecycle import Parts
from tests.serving import QUESTION, serve_on_port

TALK = [{"role": "user", "content": QUESTION}]
HIGH, LOW = 0.99, 0.01


@contextmanager
def serving_openai(parts: Parts, **settings) -> Iterator[openai.OpenAI]:
    """A client that never asks twice."""
    with (
        serve_on_port(parts, **settings) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def asynchronous(client: openai.OpenAI) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0)


def post(client: openai.OpenAI, path: str, body) -> httpx.Response:
    """Without the client library: what other languages' clients send, and what is really on the wire."""
    return httpx.post(f"{str(client.base_url).removesuffix('/v1/')}{path}", json=body, timeout=30)


def generate(client: openai.OpenAI, *, guard=None, sampling=None, **body):
    asked = {"messages": TALK} if "prompt" not in body else {}
    sampling = {"max_tokens": 24, **(sampling or {})}
    answer = post(client, "/generate", {**asked, "sampling": sampling, "guard": guard or {}, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def metric(client: openai.OpenAI, name: str) -> float:
    address = str(client.base_url).removesuffix("/v1/")
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))
