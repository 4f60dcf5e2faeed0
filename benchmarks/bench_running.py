"""Claim: policy `stop` looks at a response after each token without reading and judging its earlier sentences again.

Two sides, turn about, over one text token by token: a `RunningRisk` that is kept, as the service does it, and a new one
for each token, which reads and judges the whole response again. A token is a byte here: four or five are one of a real
tokenizer.

    python benchmarks/bench_running.py [--tokens 400 1600 4800] [--rounds 3] [--locator claims]
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from _interleaved import compare

from service.engines.base import EvidenceStep, RowEvidence, TokenEvidence
from service.engines.fake import fake_tokenizer
from service.engines.fake_probe import fake_artifact
from service.guard.running import RunningRisk
from service.guard.transcript import Transcript

QUESTION = "What is the capital of France?"
SENTENCE = "The capital of France is Paris, and 2 million people lived there in {}. "


def look(n_tokens: int, locator: str, *, is_kept: bool) -> Callable[[], Awaitable[float]]:
    """A side: milliseconds a token of one response."""
    probe, tokenizer = fake_artifact().probe, fake_tokenizer()
    text = "".join(SENTENCE.format(1000 + year) for year in range(n_tokens))
    token_ids = tokenizer(text, add_special_tokens=False).input_ids[:n_tokens]

    def new() -> RunningRisk:
        return RunningRisk(probe, question=QUESTION, locator=locator)  # type: ignore[arg-type]

    async def run() -> float:
        transcript, running = Transcript(tokenizer, (), probe.position), new()
        began = time.perf_counter()
        for token_id in token_ids:
            transcript.add(EvidenceStep(RowEvidence((0.1, 0.2)), TokenEvidence(token_id, -0.1, 0.2)))
            response = transcript.response(transcript.n_ready)
            (running if is_kept else new()).of(response)
        return 1000 * (time.perf_counter() - began) / n_tokens

    return run


async def measure(args: argparse.Namespace) -> None:
    """Print both sides and the ratio for each length."""
    for n_tokens in args.tokens:
        again, kept = (look(n_tokens, args.locator, is_kept=is_kept) for is_kept in (False, True))
        found = await compare(again, kept, rounds=args.rounds)
        print(
            f"{n_tokens} tokens: all again {found.first.text()} ms a token, each claim once {found.second.text()}, "
            f"ratio {found.ratio.text(1)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[400, 1600, 4800])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--locator", choices=("lexical", "claims", "response"), default="claims")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
