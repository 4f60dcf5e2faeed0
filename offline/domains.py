"""Questions of other domains: asked, judged and marked like the others, and used for nothing but evaluation.

A domain is a question source; its rows are the greedy answers to its questions, one a question and unfiltered. Left out
are questions that share their text with any question of the run, or an accepted answer with a row that something was
fitted on. Where some questions of a source are about made-up entities and others not, the former are a domain
`<source>-madeup`: there every claim is a hallucination, and a refusal that still claims something is faithful.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from offline.labels.judge import is_echoed
from offline.labels.label import LABEL_OF, answers_key
from offline.labels.normalise import normalise
from offline.questions.loading import load_questions
from offline.questions.rows import QuestionError
from offline.records import DOMAIN, Judgement, Label, LabelledResponse, Question, Response, SpanRow
from offline.refresh import choose_judge, mark_spans, sample_greedy
from offline.run import Run
from offline.stages import Stage
from probes.claims import find_claims

FITTED_SPLITS = ("train", "calibration", "unfiltered-calibration")

LeftOut = dict[str, dict[str, int]]
"""Domain -> reason -> questions."""


@dataclass(frozen=True)
class DomainAnswers:
    """What the text stages made of the domains' questions."""

    labels: list[LabelledResponse]
    spans: list[SpanRow]
    questions: list[Question]
    greedy: list[Response]
    made: str
    """The fingerprint of them all."""
    left_out: LeftOut

    @property
    def stages(self) -> tuple[list[LabelledResponse], list[SpanRow], list[Question], list[Response], str]:
        """What `offline.features.table.extract_features` takes."""
        return self.labels, self.spans, self.questions, self.greedy, self.made


def ask_domains(
    run: Run, questions: Sequence[Question], labels: Sequence[LabelledResponse], upstream: str
) -> DomainAnswers | None:
    """The domains' own stages; None without --domains.

    Args:
        run: The run.
        questions: All that it asked.
        labels: Its rows.
        upstream: Fingerprint of its text stages.

    Raises:
        QuestionError: A source cannot be read.
    """
    if not run.config.domains:
        return None
    wanted, left_out, made = _read_domains(run, questions, labels, upstream)
    greedy, made = sample_greedy(run, wanted, made, name="domain-greedy")
    judged: Stage[Judgement] = Stage(run.out, "domain-verdicts", Judgement, {"judge": run.config.judge, "greedy": made})
    by_id = {question.question_id: question for question in wanted}
    if not judged.is_complete:
        judged.write(choose_judge(run).judge_all([(by_id[row.question_id], row) for row in greedy]))
    rows, unlabelled, made = _label(run, wanted, greedy, list(judged.rows()), judged.fingerprint)
    spans, made = mark_spans(run, rows, wanted, greedy, made, name="domain-spans")
    reasons = {name: {**left_out.get(name, {}), **unlabelled.get(name, {})} for name in {**left_out, **unlabelled}}
    return DomainAnswers(rows, spans, wanted, greedy, made, reasons)


def _read_domains(
    run: Run, questions: Sequence[Question], labels: Sequence[LabelledResponse], upstream: str
) -> tuple[list[Question], LeftOut, str]:
    c = run.config
    if c.domain_rows < 1:
        raise QuestionError(f"--domain-rows is {c.domain_rows}; it must be at least 1")
    settings = {"domains": list(c.domains), "rows": c.domain_rows, "seed": c.seed, "spans": upstream}
    stage: Stage[Question] = Stage(run.out, "domain-questions", Question, settings)
    if not stage.is_complete:
        offered = name_domains(load_questions(c.domains, limit=None, seed=c.seed))
        fitted = [row.answers_key for row in labels if row.split in FITTED_SPLITS]
        kept, left_out = drop_overlap(offered, questions, fitted)
        drawn = [q for rows in kept.values() for q in rows[: c.domain_rows]]
        stage.write(drawn, questions=len(drawn), left_out=left_out)
    return list(stage.rows()), stage.manifest["counts"]["left_out"], stage.fingerprint


def name_domains(questions: Sequence[Question]) -> list[Question]:
    """The questions, those about made-up entities under a source of their own where theirs has others too."""
    answered = {question.source for question in questions if question.answers}
    return [
        question
        if question.answers or question.source not in answered
        else replace(question, source=f"{question.source}-madeup")
        for question in questions
    ]


def drop_overlap(
    offered: Iterable[Question], asked: Sequence[Question], fitted: Iterable[str]
) -> tuple[dict[str, list[Question]], LeftOut]:
    """Leave out what the probe may know.

    Args:
        offered: The domains' questions.
        asked: All questions of the run.
        fitted: Answer strings (`offline.labels.label.answers_key`) of the rows that something was fitted on.

    Returns:
        Domain -> its questions that are left, in their order; and how many are not, by reason.
    """
    texts, ids, keys = {normalise(q.question) for q in asked}, {q.question_id for q in asked}, set(fitted)
    kept: dict[str, list[Question]] = defaultdict(list)
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    for question in offered:
        if normalise(question.question) in texts or question.question_id in ids:
            left_out[question.source]["question of the run"] += 1
        elif any(answers_key(replace(question, answers=(answer,))) in keys for answer in question.answers):
            left_out[question.source]["answer of a fitted row"] += 1
        else:
            kept[question.source].append(question)
    return kept, {name: dict(counts) for name, counts in left_out.items()}


def _label(
    run: Run,
    questions: Sequence[Question],
    greedy: Sequence[Response],
    verdicts: Sequence[Judgement],
    upstream: str,
) -> tuple[list[LabelledResponse], LeftOut, str]:
    needs_claim = run.config.spans == "lexical"
    stage: Stage[LabelledResponse] = Stage(
        run.out, "domain-labels", LabelledResponse, {"verdicts": upstream, "needs_claim": needs_claim}
    )
    if not stage.is_complete:
        texts = {row.question_id: row.text for row in greedy}
        claims = {q.question_id for q in questions if not needs_claim or find_claims(run.ask(q), texts[q.question_id])}
        rows, left_out = label_domains(questions, {row.question_id: row for row in verdicts}, claims)
        stage.write(rows, rows=len(rows), left_out=left_out)
    return list(stage.rows()), stage.manifest["counts"]["left_out"], stage.fingerprint


def label_domains(
    questions: Sequence[Question], verdicts: Mapping[str, Judgement], claims: set[str]
) -> tuple[list[LabelledResponse], LeftOut]:
    """One unfiltered row a question.

    Args:
        questions: Of the domains.
        verdicts: Question id -> of its greedy answer.
        claims: Questions whose answer claims something; the others are not scored online either.

    Returns:
        The rows; and how many questions gave none, by domain and reason.
    """
    rows, left_out = [], defaultdict[str, Counter[str]](Counter)
    for question in questions:
        verdict = verdicts[question.question_id].verdict
        is_madeup = not question.answers
        label: Label = "faithful" if verdict == ("refusal" if is_madeup else "right") else "hallucinated"
        if is_echoed(question):
            left_out[question.source]["answer named in the question"] += 1
        elif verdict not in LABEL_OF and not (is_madeup and verdict == "refusal" and question.question_id in claims):
            left_out[question.source]["refused" if verdict == "refusal" else verdict] += 1
        elif question.question_id not in claims:
            left_out[question.source]["claims nothing"] += 1
        else:
            key = answers_key(question)
            rows.append(
                LabelledResponse(question.question_id, 0, label, DOMAIN, question.source, question.group, None, key)
            )
    return rows, {name: dict(counts) for name, counts in left_out.items()}
