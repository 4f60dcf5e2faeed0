"""Verdicts -> labelled responses: the consistency filter, answer-disjoint splits, and balance within source and group.

The response that is kept of a question is its greedy one, labelled by its own verdict, where at least a share
`agreement` of the temperature samples has that verdict too (refusals and unjudged samples count against it). Splits are
made by the normalised first answer, so no two of them share one; aliases further down the lists may still meet. A few
answers ("French") are those of many questions: training rows have at most `ANSWER_ROWS` of one answer in one class.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from offline.labels.judge import split_judgeable
from offline.labels.normalise import ARTICLES, split_words
from offline.records import Judgement, Label, LabelledResponse, Question, Verdict

SPLITS = {"train": 0.45, "calibration": 0.07, "test": 0.48}
"""Share of the answer strings in each split."""

ANSWER_ROWS = 20
"""Most training rows with one answer, source, group and label; more teach the answer instead of the model's doubt."""

LABEL_OF: dict[str, Label] = {"right": "faithful", "wrong": "hallucinated"}


def answers_key(question: Question) -> str:
    """What splits are disjoint by: the first answer's words without articles; a made-up entity stands for itself.

    Not by its bare id: `offline.questions.loading` draws under a limit by the hash of seed and id, and the split is the
    hash of seed and key. Were they one number, the drawn ids would be the lowest ones and all of them training
    questions.
    """
    if not question.answers:
        return f"made up: {question.question_id}"
    words = [word.key for word in split_words(question.answers[0])]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def split_of(key: str, seed: int) -> str:
    """The split of an answer string; depends on nothing else, so more questions never move old ones."""
    share = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") / 2**64
    for split, width in SPLITS.items():
        if share < width:
            return split
        share -= width
    return "test"


def label_responses(
    questions: Sequence[Question],
    greedy: Mapping[str, Judgement],
    samples: Mapping[str, Sequence[Judgement]],
    *,
    agreement: float,
    seed: int,
    unfiltered: int,
    natural: Collection[str] | None = None,
) -> list[LabelledResponse]:
    """All rows that the later stages use.

    Args:
        questions: Every question that was asked.
        greedy: Its greedy verdict.
        samples: Verdicts of its temperature samples, where any were drawn.
        agreement: Share of samples with the greedy answer's verdict that keeps a question, in (0, 1].
        seed: Of splits and of the balancing draw.
        unfiltered: Most unfiltered rows in each of the calibration and test splits.
        natural: Questions that unfiltered rows may be drawn from; None for all. Where not every question was judged,
            those that were sampled again are no fair draw: the right ones are all among them.

    Returns:
        Filtered rows balanced within (split, source, group), those of training also capped by answer, split `train`,
        `calibration` or `test`; then unfiltered rows at their natural rate, split `unfiltered-calibration` or
        `unfiltered-test`.
    """
    judgeable, _ = split_judgeable(questions)
    filtered: dict[tuple[str, str, str], dict[Label, list[LabelledResponse]]] = defaultdict(lambda: defaultdict(list))
    drawable: dict[str, list[LabelledResponse]] = defaultdict(list)
    for question in judgeable:
        key = answers_key(question)
        split = split_of(key, seed)
        verdict = greedy[question.question_id].verdict
        if verdict not in LABEL_OF:
            continue
        label = LABEL_OF[verdict]
        row = LabelledResponse(question.question_id, 0, label, split, question.source, question.group, None, key)
        if split != "train" and (natural is None or question.question_id in natural):
            drawable[split].append(row)
        if question.question_id in samples:
            share = _share_of(verdict, samples[question.question_id])
            if share >= agreement:
                filtered[split, question.source, question.group][label].append(replace(row, agreement=share))
    rows: list[LabelledResponse] = []
    for stratum in sorted(filtered):
        classes = filtered[stratum]
        if stratum[0] == "train":
            classes = {name: _cap_answers(classes[name], f"{seed}/{stratum}/{name}") for name in LABEL_OF.values()}
        size = min(len(classes["faithful"]), len(classes["hallucinated"]))
        for name in LABEL_OF.values():
            rows += _draw(classes[name], size, f"{seed}/{stratum}/{name}")
    for split in sorted(drawable):
        drawn = _draw(drawable[split], unfiltered, f"{seed}/unfiltered/{split}")
        rows += [replace(row, split=f"unfiltered-{split}") for row in drawn]
    return rows


def count_rows(rows: Iterable[LabelledResponse]) -> dict[str, dict[str, int]]:
    """Rows by split and label, and by split and source, for manifests and cards."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.split][row.label] += 1
        counts[f"{row.split} by source"][row.source] += 1
    return {split: dict(counter) for split, counter in counts.items()}


def _share_of(verdict: Verdict, samples: Sequence[Judgement]) -> float:
    return sum(judgement.verdict == verdict for judgement in samples) / len(samples)


def _cap_answers(rows: list[LabelledResponse], key: str) -> list[LabelledResponse]:
    by_answer: dict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        by_answer[row.answers_key].append(row)
    return [row for answer in by_answer for row in _draw(by_answer[answer], ANSWER_ROWS, f"{key}/{answer}")]


def _draw(rows: list[LabelledResponse], size: int, key: str) -> list[LabelledResponse]:
    ordered = sorted(rows, key=lambda row: row.question_id)
    random.Random(key).shuffle(ordered)  # noqa: S311
    return ordered[:size]
