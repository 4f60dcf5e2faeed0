"""Take over answers of an earlier run, so that more questions cost only the answers that are new.

A run's questions are part of what its stages are made with, hence a larger --limit needs a folder of its own. The same
model asked the same question under the same settings gives the same answer there, up to the arithmetic of batches.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline.records import Question, Response
from offline.stages import Stage, StageMismatchError, read_rows

log = logging.getLogger("hguard.train")

MAY_DIFFER = {"questions", "greedy", "agreement", "wrong_per_right"}
"""Settings that decide who is asked, and not what is answered."""


def reuse_answers(stage: Stage[Response], earlier: Path, questions: Sequence[Question]) -> int:
    """Append the rows of an earlier run's stage of the same name whose questions are asked here in the same words.

    Args:
        stage: Not complete; rows that it has already stay.
        earlier: The other run's folder; finished or not.
        questions: Those that are asked here.

    Returns:
        How many rows were taken over.

    Raises:
        ValueError: The folder is that of no run.
        StageMismatchError: The rows there were drawn otherwise: another model, seed, length, dtype, prompt or sampler.
    """
    begun = earlier / f"{stage.name}.settings.json"
    if not begun.exists():
        if not (earlier / "greedy.settings.json").exists():
            raise ValueError(f"--reuse {earlier}: no run has answered there; name the folder (--out) of an earlier one")
        return 0  # it did not come this far
    _compare(stage, json.loads(begun.read_text()), earlier)
    there = read_rows(earlier / f"{_questions_of(stage.name)}.jsonl", Question)
    texts = {row.question_id: row.question for row in there}
    wanted = {q.question_id for q in questions if texts.get(q.question_id) == q.question}
    done = {(row.question_id, row.sample) for row in stage.rows()}
    answers = read_rows(earlier / f"{stage.name}.jsonl", Response)
    rows = [r for r in answers if r.question_id in wanted and (r.question_id, r.sample) not in done]
    with stage:
        stage.append(rows)
    log.info("%s: %d answers taken over from %s", stage.name, len(rows), earlier)
    return len(rows)


def _compare(stage: Stage[Response], theirs: dict[str, Any], earlier: Path) -> None:
    ours = stage.settings
    changed = sorted(key for key in (ours.keys() | theirs.keys()) - MAY_DIFFER if ours.get(key) != theirs.get(key))
    if changed:
        was, now = ({key: settings.get(key) for key in changed} for settings in (theirs, ours))
        raise StageMismatchError(
            f"--reuse {earlier}: stage {stage.name} there was made with {was}, now {now}: run with those settings, "
            "or without --reuse"
        )


def _questions_of(stage: str) -> str:
    return "domain-questions" if stage == "domain-greedy" else "questions"
