"""How wrong the labels may be: disagreement of samples, a second judge, and near matches of accepted answers.

The near-match rate is a heuristic: it sees one direction only (right answers called wrong), and not all of those.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from offline.fitting.budgets import exact_interval
from offline.labels.normalise import ARTICLES, split_words
from offline.metrics import LEVEL, RESAMPLES, Floats, Interval, Ints
from offline.records import Judgement, Question, Verdict

SIMILARITY = 0.8
FILLERS = ARTICLES | frozenset(["of", "in", "on", "at", "to", "and", "for", "by", "with", "from", "is", "was"])
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Disagreement:
    """How often samples are judged unlike the greedy answer."""

    group: str
    questions: int
    share: Interval


def sample_disagreement(verdicts: Sequence[Judgement], groups: Mapping[str, set[str]]) -> list[Disagreement]:
    """Share of a question's samples whose verdict is not the greedy one's, mean over questions.

    Args:
        verdicts: Of greedy answers (sample 0) and samples.
        groups: Name -> question ids; those without samples do not count.
    """
    greedy = {row.question_id: row.verdict for row in verdicts if row.sample == 0}
    unlike: dict[str, list[bool]] = defaultdict(list)
    for row in verdicts:
        if row.sample:
            unlike[row.question_id].append(row.verdict != greedy[row.question_id])
    found = []
    for name, ids in groups.items():
        shares = np.array([np.mean(unlike[key]) for key in sorted(ids) if key in unlike])
        if len(shares):
            found.append(Disagreement(name, len(shares), _mean_interval(shares)))
    return found


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same answers."""

    rows: int
    share: Interval
    kappa: Interval
    confusion: Mapping[tuple[str, str], int]
    """(label's verdict, second verdict) -> answers."""


def compare_judges(first: Mapping[str, str], second: Mapping[str, str]) -> Agreement:
    """Agreement rate and Cohen's kappa over the questions that both judged.

    Raises:
        ValueError: They share none.
    """
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise ValueError("the second judge's file names no question of an evaluated row: question_id is <source>/<id>")
    a = np.array([VERDICTS.index(first[key]) for key in shared])
    b = np.array([VERDICTS.index(second[key]) for key in shared])
    draws = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    hits = int((a == b).sum())
    kappas = [cohen_kappa(a[rows], b[rows]) for rows in draws]
    low, high = np.quantile(kappas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(
        rows=len(a),
        share=Interval(hits / len(a), *exact_interval(hits, len(a))),
        kappa=Interval(cohen_kappa(a, b), float(low), float(high)),
        confusion=Counter((first[key], second[key]) for key in shared),
    )


def cohen_kappa(a: Ints, b: Ints) -> float:
    """Agreement beyond chance (Cohen 1960); 1 where both say the same one thing throughout."""
    observed = float((a == b).mean())
    expected = float(sum((a == code).mean() * (b == code).mean() for code in range(len(VERDICTS))))
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)


def read_second_judge(path: Path) -> dict[str, str]:
    """Verdicts of a second judge, one {question_id, verdict} a line.

    Raises:
        ValueError: Not such a file; names the line.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            key, verdict = row["question_id"], row["verdict"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a row {{question_id, verdict}}") from error
        if verdict not in VERDICTS:
            raise ValueError(f"{path}, line {number}: verdict {verdict!r} is not one of {', '.join(VERDICTS)}")
        found[str(key)] = str(verdict)
    return found


@dataclass(frozen=True)
class NearMatch:
    """An answer called a hallucination that nearly is an accepted one."""

    question: str
    response: str
    accepted: str


@dataclass(frozen=True)
class NearMatches:
    """How many there are."""

    share: Interval
    found: Sequence[NearMatch]
    of: int


def find_near_matches(rows: Sequence[tuple[Question, str]]) -> NearMatches:
    """Near matches among answers that are labelled hallucinated, as (question, response).

    Raises:
        ValueError: No rows.
    """
    if not rows:
        raise ValueError("no hallucinated row to look at")
    found = []
    for question, response in rows:
        near = next((answer for answer in question.answers if is_near(question.question, response, answer)), None)
        if near is not None:
            found.append(NearMatch(question.question, response, near))
    return NearMatches(Interval(len(found) / len(rows), *exact_interval(len(found), len(rows))), found, len(rows))


def is_near(question: str, response: str, answer: str) -> bool:
    """Whether a response has all content words of an accepted answer, or a run of words with similarity above .8.

    Content words that the question names say nothing, and digits must be the same.
    """
    asked = {word.key for word in split_words(question)}
    said = [word.key for word in split_words(response) if word.text not in FILLERS]
    wanted = [word.key for word in split_words(answer) if word.text not in FILLERS]
    if not set(wanted) - asked:
        return False
    if set(wanted) <= set(said):
        return True
    text = " ".join(wanted)
    for size in {max(1, len(wanted) - 1), len(wanted), len(wanted) + 1}:
        for start in range(len(said) - size + 1):
            run = said[start : start + size]
            if set(run) <= asked or [c for w in run for c in w if c.isdigit()] != [c for c in text if c.isdigit()]:
                continue
            if edit_similarity(" ".join(run), text) > SIMILARITY:
                return True
    return False


def edit_similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance over the longer length; 0 where it is surely not above `SIMILARITY`."""
    longest = max(len(a), len(b), 1)
    shared = (Counter(a) & Counter(b)).total()
    if shared <= SIMILARITY * longest:  # the distance is at least longest - shared
        return 0.0
    before = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        row = [i]
        for j, right in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
        before = row
    return 1 - before[-1] / longest


def _mean_interval(values: Floats) -> Interval:
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))
