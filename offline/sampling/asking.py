"""The two sampling stages: greedy answers to all questions, then temperature samples where they still matter.

Which questions matter is decided from the greedy verdicts: the right ones can be consistently right; of the wrong ones
only as many are asked again, within each split, source and group, as there are right ones to balance. A question leaves
as soon as it can no longer reach the agreement.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from tqdm import tqdm

from offline.labels.judge import judge_alias, split_judgeable
from offline.labels.label import answers_key, split_of
from offline.records import Question, Response, Verdict
from offline.sampling.sample import GREEDY, PAPER_SAMPLING, Draws, Job
from offline.stages import Stage

CHUNK = 1024  # questions between two looks at the clock; a kill loses at most the rows in flight
ROUND = 5  # samples drawn before looking whether a question can still reach the agreement


def ask_greedy(stage: Stage[Response], questions: Sequence[Question], sampler: Draws) -> None:
    """Fill the greedy stage: sample 0 of every question that has no row yet."""
    if stage.is_complete:
        return
    done = {row.question_id for row in stage.rows()}
    todo = [Job(question, (0,)) for question in questions if question.question_id not in done]
    with stage, tqdm(total=len(questions), initial=len(done), desc=stage.name, unit="question") as bar:
        for start in range(0, len(todo), CHUNK):
            for rows in sampler.draw(todo[start : start + CHUNK], GREEDY):
                stage.append(rows)
                bar.update(len(rows))
    stage.finish(responses=len(questions))


def pick_questions(
    questions: Sequence[Question], greedy: dict[str, Verdict], *, surplus: float, seed: int
) -> list[Question]:
    """Questions worth ten samples: all right ones, and `surplus` times as many wrong ones a split, source and group."""
    strata: dict[tuple[str, str, str], dict[Verdict, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for question in split_judgeable(questions)[0]:
        split = split_of(answers_key(question), seed)
        strata[split, question.source, question.group][greedy[question.question_id]].append(question)
    picked: list[Question] = []
    for key in sorted(strata):
        right, wrong = strata[key]["right"], strata[key]["wrong"]
        random.Random(f"{seed}/{key}").shuffle(wrong)  # noqa: S311
        picked += right + wrong[: round(len(right) * surplus)]
    return picked


def ask_samples(
    stage: Stage[Response],
    questions: Sequence[Question],
    greedy: dict[str, Verdict],
    sampler: Draws,
    *,
    n: int,
    agreement: float,
) -> None:
    """Fill the sample stage: up to n temperature samples of each picked question, in rounds."""
    if stage.is_complete:
        return
    by_id = {question.question_id: question for question in questions}
    verdicts: dict[str, dict[int, Verdict]] = {key: {} for key in by_id}
    for row in stage.rows():
        if row.question_id in by_id:
            verdicts[row.question_id][row.sample] = judge_alias(by_id[row.question_id], row.text)[0]
    for first in range(1, n + 1, ROUND):
        samples = tuple(range(first, min(first + ROUND, n + 1)))
        todo = [
            Job(question, missing)
            for key, question in by_id.items()
            if (missing := tuple(s for s in samples if s not in verdicts[key]))
            and _can_agree(verdicts[key], greedy[key], before=first, n=n, agreement=agreement)
        ]
        with stage, tqdm(total=sum(len(job.samples) for job in todo), desc=f"samples {samples}", unit="answer") as bar:
            for group in _equal_counts(todo):
                for start in range(0, len(group), CHUNK // ROUND):
                    for rows in sampler.draw(group[start : start + CHUNK // ROUND], PAPER_SAMPLING):
                        stage.append(rows)
                        bar.update(len(rows))
                        for row in rows:
                            verdicts[row.question_id][row.sample] = judge_alias(by_id[row.question_id], row.text)[0]
    stage.finish(questions=len(by_id), responses=sum(len(v) for v in verdicts.values()))


def _can_agree(seen: dict[int, Verdict], wanted: Verdict, *, before: int, n: int, agreement: float) -> bool:
    earlier = [verdict for sample, verdict in seen.items() if sample < before]
    return sum(verdict != wanted for verdict in earlier) <= n * (1 - agreement) + 1e-9


def _equal_counts(jobs: Sequence[Job]) -> list[list[Job]]:
    counts = Counter(len(job.samples) for job in jobs)
    return [[job for job in jobs if len(job.samples) == count] for count in sorted(counts, reverse=True)]
