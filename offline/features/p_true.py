"""p(True): ask the model itself whether its answer is true (Kadavath et al., arXiv 2207.05221); a baseline.

One more pass a response, so it is no free signal, and nothing that is served.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from offline.features.table import Table
from offline.records import Question, Response
from offline.run import Run
from offline.stages import Stage, fingerprint
from probes.decoding import Prefill
from probes.prompts import encode_prompt

SIGNAL = "p_true"
"""Name in `Table.signals`: log-odds of yes over no."""
ROWS = 32

_ASK = "Question: {question}\nProposed answer: {answer}\nIs the proposed answer true? Answer with Yes or No only."


@dataclass(frozen=True, slots=True)
class AskedBack:
    """What the model thinks of one of its answers."""

    question_id: str
    log_odds: float
    """Of a yes over a no as the next token."""


def with_p_true(
    run: Run, table: Table, questions: Sequence[Question], answers: Sequence[Response], upstream: str
) -> Table:
    """The table with the signal, for its rows' greedy answers."""
    wanted = {row.question_id for row in table.rows}
    by_id = {question.question_id: question for question in questions}
    pairs = [(by_id[row.question_id], row) for row in answers if row.question_id in wanted]
    settings = {"spans": upstream, "ask": _ASK, "rows": fingerprint([question.question_id for question, _ in pairs])}
    stage: Stage[AskedBack] = Stage(run.out, "p-true", AskedBack, settings)
    if not stage.is_complete:
        _ask(run, pairs, stage)
    found = {row.question_id: row.log_odds for row in stage.rows()}
    signal = np.array([found[row.question_id] for row in table.rows])
    return replace(table, signals={**table.signals, SIGNAL: signal})


def _ask(run: Run, pairs: Sequence[tuple[Question, Response]], stage: Stage[AskedBack]) -> None:
    done = {row.question_id for row in stage.rows()}
    model, words = run.model(run.config.sampling_dtype), yes_and_no(run.tokenizer)
    prompts = {
        question.question_id: encode_prompt(
            run.tokenizer, _ASK.format(question=question.question, answer=answer.text.strip())
        )
        for question, answer in pairs
    }
    todo = sorted((key for key in prompts if key not in done), key=lambda key: len(prompts[key]))
    with stage, tqdm(total=len(prompts), initial=len(done), desc=stage.name, unit="answer") as bar:
        for start in range(0, len(todo), ROWS):
            keys = todo[start : start + ROWS]
            with torch.inference_mode():
                logits = Prefill(model, [prompts[key] for key in keys]).step()[:, -1].float().cpu()
            yes, no = (logits[:, ids].logsumexp(dim=1) for ids in words)
            stage.append([AskedBack(key, value) for key, value in zip(keys, (yes - no).tolist(), strict=True)])
            bar.update(len(keys))
    stage.finish(answers=len(prompts))


def yes_and_no(tokenizer: Any) -> tuple[list[int], list[int]]:
    """First tokens of either word, however it is written."""
    firsts: Mapping[str, set[int]] = {"yes": set(), "no": set()}
    for word, ids in firsts.items():
        for text in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
            ids.add(int(tokenizer(text, add_special_tokens=False).input_ids[0]))
    shared = firsts["yes"] & firsts["no"]  # of a tokenizer that cuts the space off
    return sorted(firsts["yes"] - shared), sorted(firsts["no"] - shared)
