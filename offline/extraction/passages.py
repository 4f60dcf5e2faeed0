"""Passage: a prompt and a response with its answer spans, and how much each of its tokens counts in each token group.

    answer         answer tokens                                   what the probe is trained on
    other          all other tokens, prompt included               label 0 of 3-vs-1
    answer_ahead   answer tokens, scored by their predicting rows
    other_ahead    the rest, likewise
    response       every response token                            what is pooled where no span is found
    prompt         prompt tokens only                              the question-only control

Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from probes.positions import PositionRule, sequence_slice
from probes.spans import AnswerSpan

GROUPS = ("answer", "other", "answer_ahead", "other_ahead", "response", "prompt")


@dataclass(frozen=True, slots=True)
class Passage:
    """A prompt and response with its answer spans."""

    key: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[AnswerSpan, ...]
    """At least one; the answer tokens are their union."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt, then response."""
        return self.prompt_ids + self.response_ids

    @property
    def length(self) -> int:
        """Prompt and response tokens."""
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def answer(self) -> Tensor:
        """Which response tokens are answer tokens [T], bool."""
        mask = torch.zeros(len(self.response_ids), dtype=torch.bool)
        for span in self.spans:
            mask[span.start : span.end] = True
        return mask


def group_weights(passage: Passage, columns: int) -> Tensor:
    """How much each column counts in each group [G, columns]; every group that has tokens sums to 1."""
    p, t = len(passage.prompt_ids), len(passage.response_ids)
    weights = torch.zeros(len(GROUPS), columns)
    rules: dict[str, PositionRule] = {"": "own", "_ahead": "predicting"}
    for name, rule in rules.items():
        scoring = sequence_slice(p, t, rule)
        answer = torch.zeros(columns, dtype=torch.bool)
        answer[scoring] = passage.answer
        rest = ~answer
        rest[scoring.stop :] = False
        weights[GROUPS.index(f"answer{name}")] = _mean(answer)
        weights[GROUPS.index(f"other{name}")] = _mean(rest)
    column = torch.arange(columns)
    weights[GROUPS.index("response")] = _mean((column >= p) & (column < p + t))
    weights[GROUPS.index("prompt")] = _mean(column < p)
    return weights


def shared_prefix(passages: Sequence[Passage]) -> tuple[int, ...]:
    """What all prompts begin with, at most up to the token before a prompt's last one, which predicts the response."""
    if not passages:
        return ()
    columns = zip(*(passage.prompt_ids[:-1] for passage in passages), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def _mean(mask: Tensor) -> Tensor:
    """Weights that take the mean over a mask; all zero where it is empty."""
    return mask / mask.sum().clamp(min=1)
