"""What holding costs a stream: the same greedy answers immediate and held, in turn, from one service of its own.

    python benchmarks/bench_hold.py

Prints, over all tokens, how much later a held token arrives than the immediate one, in milliseconds and in tokens, and
the ratio of the times to the first token and to the last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np

COUNTRIES = ("France", "Japan", "Brazil", "Kenya", "Norway", "Peru", "Canada", "Egypt", "India", "Greece")
QUESTIONS = [
    *(f"What is the capital of {name}?" for name in COUNTRIES),
    *(f"Tell me three facts about {name}." for name in COUNTRIES),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8017)
    parser.add_argument("--max-tokens", type=int, default=96)
    args = parser.parse_args()
    delays, behind, firsts, lasts = [], [], [], []
    with serve(args.port) as client:
        ask(client, QUESTIONS[0], "immediate", args.max_tokens)
        for question in QUESTIONS:
            plain = ask(client, question, "immediate", args.max_tokens)
            held = ask(client, question, "hold", args.max_tokens)
            assert len(plain) == len(held) > 0, "the two answers are not the same"
            delays += (held - plain).tolist()
            behind += [int((plain <= at).sum()) - k - 1 for k, at in enumerate(held)]
            firsts.append(held[0] / plain[0])
            lasts.append(held[-1] / plain[-1])
    show("token later by, ms", 1000 * np.array(delays))
    show("token later by, tokens", np.array(behind, dtype=float))
    show("time to the first token, held over immediate", np.array(firsts))
    show("time to the last token, held over immediate", np.array(lasts))


@contextmanager
def serve(port: int) -> Iterator[httpx.Client]:
    """The default model on loopback, for as long as this lasts."""
    environment = {**os.environ, "HGUARD_PORT": str(port), "HGUARD_LOG_LEVEL": "error", "HGUARD_FEEDBACK_URL": "off"}
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            while process.poll() is None:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait()


def ask(client: httpx.Client, question: str, mode: str, max_tokens: int) -> np.ndarray:
    """Seconds from the request to each token's arrival [T]."""
    body = {"prompt": question, "stream": True, "stream_mode": mode, "sampling": {"max_tokens": max_tokens}}
    began, name, arrivals = time.perf_counter(), "", []
    with client.stream("POST", "/generate", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "token":
                arrivals.append(time.perf_counter() - began)
            elif line.startswith("data: ") and name == "error":
                raise SystemExit(json.loads(line.removeprefix("data: "))["error"]["message"])
    return np.array(arrivals)


def show(name: str, values: np.ndarray) -> None:
    low, median, high, most = np.quantile(values, [0.25, 0.5, 0.75, 0.95])
    print(f"{name}: median {median:.2f} (quartiles {low:.2f} to {high:.2f}, 95% {most:.2f})")


if __name__ == "__main__":
    main()
