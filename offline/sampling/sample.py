"""Ask the questions: a greedy pass over all of them, then temperature samples where they can still matter.

Answers come from `probes.decoding.DecodeBatch`: the samples of a question share its prefill and finished rows make room
for new questions. What ends an answer beside the end-of-sequence tokens, `offline.sampling.line_end` says. Judges
nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from offline.records import FinishReason, Question, Response
from offline.sampling.line_end import LineEnd
from probes.decoding import DecodeBatch, stop_token_ids
from probes.sampling import RowRandom, SamplingParams, choose_tokens

PAPER_SAMPLING = SamplingParams(temperature=1.0, top_p=0.9, top_k=50)
"""Of arXiv 2512.01797; 10 samples of at most 50 tokens."""
GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Job:
    """A question and the samples to draw of it."""

    question: Question
    samples: tuple[int, ...]
    """Sample numbers; (0,) with greedy parameters is the greedy pass."""


@dataclass(slots=True)
class _Row:
    question_id: str
    sample: int
    random: RowRandom
    token_ids: list[int]


class Draws(Protocol):
    """Whatever answers jobs."""

    def draw(self, jobs: Sequence[Job], params: SamplingParams) -> Iterator[list[Response]]:
        """Answer all jobs; finished responses come in small lists, in the order in which they finish."""


class Sampler:
    """Draws answers in batches of rows that join and leave."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        encode: Callable[[Question], list[int]],
        *,
        seed: int,
        max_tokens: int = 50,
        max_rows: int = 128,
    ) -> None:
        """Prepare a sampler.

        Args:
            model: A causal language model of transformers.
            tokenizer: Its tokenizer.
            encode: Question -> prompt token ids.
            seed: Together with question id and sample number it decides every draw.
            max_tokens: Response tokens at most; the paper's 50.
            max_rows: Rows decoded together.
        """
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.max_tokens, self.max_rows = max_tokens, max_rows
        self.encode = encode
        self._stop_ids = stop_token_ids(model, tokenizer)
        self._line_end = LineEnd(tokenizer)

    @torch.inference_mode()
    def draw(self, jobs: Sequence[Job], params: SamplingParams) -> Iterator[list[Response]]:
        """Answer all jobs; finished responses come in small lists, in the order in which they finish.

        Raises:
            ValueError: Jobs ask for different numbers of samples: the rows of a prefill are copied equally often.
        """
        if len({len(job.samples) for job in jobs}) > 1:
            raise ValueError("draw takes jobs that ask for as many samples each")
        waiting = sorted(((self.encode(job.question), job) for job in jobs), key=lambda pair: len(pair[0]))
        batch = DecodeBatch(self.model)
        rows: list[_Row] = []
        logits = torch.empty(0)
        while rows or waiting:
            room = self.max_rows - len(rows)
            if waiting and (not rows or room >= self.max_rows // 2):
                copies = len(waiting[0][1].samples)
                take = max(1, room // copies)
                group, waiting = waiting[:take], waiting[take:]
                fresh = batch.join([ids for ids, _ in group], copies).repeat_interleave(copies, dim=0)
                logits = torch.cat([logits, fresh]) if rows else fresh
                rows += [self._row(job.question, sample) for _, job in group for sample in job.samples]
            uniforms = [row.random.next() for row in rows] if params.temperature > 0 else [0.0] * len(rows)
            tokens = choose_tokens(logits, [params] * len(rows), uniforms)
            done, kept = [], []
            for at, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                if token in self._stop_ids:
                    done.append(self._response(row, "stop"))
                    continue
                row.token_ids.append(token)
                if (line := self._line_end.cut(row.token_ids)) is not None:
                    row.token_ids = line
                    done.append(self._response(row, "stop"))
                elif len(row.token_ids) == self.max_tokens:
                    done.append(self._response(row, "length"))
                else:
                    kept.append(at)
            if len(kept) < len(rows):
                kept = _fill_gaps(kept)
                batch.keep(kept)
                rows, tokens = [rows[at] for at in kept], tokens[kept]
            if done:
                yield done
            if rows:
                logits = batch.step(tokens)

    def _row(self, question: Question, sample: int) -> _Row:
        key = int.from_bytes(hashlib.sha256(question.question_id.encode()).digest()[:8], "big")
        return _Row(question.question_id, sample, RowRandom(self.seed, key, sample), [])

    def _response(self, row: _Row, finish_reason: FinishReason) -> Response:
        return respond(self.tokenizer, row.question_id, row.sample, row.token_ids, finish_reason)


def respond(
    tokenizer: Any, question_id: str, sample: int, token_ids: Sequence[int], finish_reason: FinishReason
) -> Response:
    """The row of a finished answer."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Response(question_id, sample, text, tuple(token_ids), finish_reason)


def sample_key(seed: int, question_id: str, sample: int) -> int:
    """A seed of one sample's own, in [0, 2**63)."""
    digest = hashlib.sha256(f"{seed}/{sample}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _fill_gaps(kept: list[int]) -> list[int]:
    """The same rows in an order that moves the fewest: rows from the end take the places of those that left."""
    ordered = list(range(len(kept)))
    stay = set(kept)
    movers = (row for row in reversed(kept) if row >= len(kept))
    return [row if row in stay else next(movers) for row in ordered]
