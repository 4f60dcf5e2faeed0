"""The text stages of a refresh: questions, greedy, samples, verdicts, labels, spans.

Each takes the run and what the stage before it made, and returns its rows with the fingerprint of their settings.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from offline.labels.chat_client import ChatSettings
from offline.labels.judge import AliasJudge, Judge
from offline.labels.judge_openai import OpenAIJudge
from offline.labels.label import ANSWER_ROWS, SPLITS, answers_key, count_rows, label_responses, split_of
from offline.labels.spans import ShortAnswerLabeller, find_alias, label_spans
from offline.labels.spans_openai import OpenAILabeller
from offline.questions.loading import load_questions
from offline.records import Judgement, LabelledResponse, Question, Response, SpanRow
from offline.run import Run, RunConfig
from offline.sampling.asking import ask_greedy, ask_samples, pick_questions
from offline.sampling.reuse import reuse_answers
from offline.sampling.sample import PAPER_SAMPLING
from offline.stages import Stage, fingerprint
from probes.claims import find_claims
from probes.spans import locate_answer, token_offsets


def read_questions(run: Run) -> tuple[list[Question], str]:
    """Stage 1. The questions, kept in the run so that it does not depend on files that may change."""
    c = run.config
    settings = {"questions": list(c.questions), "limit": c.limit, "seed": c.seed}
    stage: Stage[Question] = Stage(run.out, "questions", Question, settings)
    if not stage.is_complete:
        rows = load_questions(c.questions, limit=c.limit, seed=c.seed)
        stage.write(rows, questions=len(rows))
    return list(stage.rows()), stage.fingerprint


def sample_greedy(
    run: Run, questions: Sequence[Question], upstream: str, *, name: str = "greedy"
) -> tuple[list[Response], str]:
    """Stage 2. A greedy answer to every question."""
    stage: Stage[Response] = Stage(run.out, name, Response, {**run.sampling_settings, "questions": upstream})
    if not stage.is_complete:
        if run.config.reuse:
            reuse_answers(stage, run.config.reuse, questions)
        ask_greedy(stage, questions, run.sampler())
    return list(stage.rows()), stage.fingerprint


def sample_again(
    run: Run, questions: Sequence[Question], greedy: Sequence[Response], upstream: str
) -> tuple[list[Response], str]:
    """Stage 3. Temperature samples of the questions that can still matter."""
    c = run.config
    by_id = {question.question_id: question for question in questions}
    verdicts = AliasJudge().judge_all([(by_id[row.question_id], row) for row in greedy])
    first = {row.question_id: row.verdict for row in verdicts}
    settings = {
        **run.sampling_settings,
        "greedy": upstream,
        "samples": c.samples,
        "agreement": c.agreement,
        "wrong_per_right": c.wrong_per_right,
        "sampling": str(PAPER_SAMPLING),
    }
    stage: Stage[Response] = Stage(run.out, "samples", Response, settings)
    if not stage.is_complete:
        picked = pick_questions(questions, first, surplus=c.wrong_per_right, seed=c.seed)
        if c.reuse:
            reuse_answers(stage, c.reuse, picked)
        ask_samples(stage, picked, first, run.sampler(), n=c.samples, agreement=c.agreement)
    return list(stage.rows()), stage.fingerprint


def judge(
    run: Run, questions: Sequence[Question], greedy: Sequence[Response], samples: Sequence[Response], upstream: str
) -> tuple[list[Judgement], str]:
    """Stage 4. A verdict on every response; another judge than `alias` sees those that can become rows."""
    c = run.config
    stage: Stage[Judgement] = Stage(run.out, "verdicts", Judgement, {"judge": c.judge, "samples": upstream})
    if not stage.is_complete:
        by_id = {question.question_id: question for question in questions}
        rows = [*greedy, *samples]
        if c.judge != "alias":
            drawn = Counter(row.question_id for row in samples)
            whole = {key for key, count in drawn.items() if count == c.samples}
            wanted = whole | {question.question_id for question in unfiltered_candidates(run, questions)}
            rows = [row for row in rows if row.question_id in (whole if row.sample else wanted)]
        verdicts = choose_judge(run).judge_all([(by_id[row.question_id], row) for row in rows])
        unjudged = sum(row.verdict == "unjudged" for row in verdicts)
        stage.write(verdicts, responses=len(verdicts), unjudged=unjudged)
    return list(stage.rows()), stage.fingerprint


def choose_judge(run: Run) -> Judge:
    """The configured judge."""
    c = run.config
    return AliasJudge() if c.judge == "alias" else OpenAIJudge(_chat(c, c.judge), run.out / "judge-cache.jsonl")


def unfiltered_candidates(run: Run, questions: Sequence[Question]) -> list[Question]:
    """Questions of the calibration and test splits from which unfiltered rows may be drawn: enough, in drawn order."""
    wanted = [q for q in questions if split_of(answers_key(q), run.config.seed) != "train"]
    wanted.sort(key=lambda q: fingerprint([run.config.seed, q.question_id]))
    return wanted[: run.config.unfiltered * 4]


def label(
    run: Run, questions: Sequence[Question], answers: Sequence[Response], verdicts: Sequence[Judgement], upstream: str
) -> tuple[list[LabelledResponse], str]:
    """Stage 5. The consistency filter, the splits, the balance.

    Under the lexical locator an answer that claims nothing ("it is not specified") is no row: it is not scored online
    either (`no_answer`), and dropping it after the balance would undo that.
    """
    c = run.config
    settings = {
        "verdicts": upstream,
        "agreement": c.agreement,
        "seed": c.seed,
        "unfiltered": c.unfiltered,
        "splits": SPLITS,
        "answer_rows": ANSWER_ROWS,
        "needs_claim": c.spans == "lexical",
    }
    stage: Stage[LabelledResponse] = Stage(run.out, "labels", LabelledResponse, settings)
    if not stage.is_complete:
        greedy = {row.question_id: row for row in verdicts if row.sample == 0}
        samples: dict[str, list[Judgement]] = defaultdict(list)
        for row in verdicts:
            if row.sample:
                samples[row.question_id].append(row)
        whole = {key: rows for key, rows in samples.items() if len(rows) == c.samples}
        known = [question for question in questions if question.question_id in greedy]
        if c.spans == "lexical":
            texts = {row.question_id: row.text for row in answers}
            known = [q for q in known if find_claims(run.ask(q), texts[q.question_id])]
        natural = None if c.judge == "alias" else {q.question_id for q in unfiltered_candidates(run, questions)}
        rows = label_responses(
            known, greedy, whole, agreement=c.agreement, seed=c.seed, unfiltered=c.unfiltered, natural=natural
        )
        stage.write(rows, **count_rows(rows), judged_without_claim=len(greedy) - len(known))
    return list(stage.rows()), stage.fingerprint


def mark_spans(
    run: Run,
    labels: Sequence[LabelledResponse],
    questions: Sequence[Question],
    greedy: Sequence[Response],
    upstream: str,
    *,
    name: str = "spans",
) -> tuple[list[SpanRow], str]:
    """Stage 6. The answer tokens of every labelled response; a response may have several spans, or none."""
    c = run.config
    stage: Stage[SpanRow] = Stage(run.out, name, SpanRow, {"labels": upstream, "spans": c.spans})
    if not stage.is_complete:
        by_id = {question.question_id: question for question in questions}
        answers = {row.question_id: row for row in greedy}
        ids = list(dict.fromkeys(row.question_id for row in labels))
        rows, missing = find_spans(run, [(by_id[key], answers[key]) for key in ids])
        stage.write(rows, responses=len(ids), spans=len(rows), without=missing)
    return list(stage.rows()), stage.fingerprint


def find_spans(run: Run, pairs: Sequence[tuple[Question, Response]]) -> tuple[list[SpanRow], dict[str, int]]:
    """Spans by the configured method, and how many responses have none, by reason."""
    c = run.config
    if c.spans == "lexical":
        rows = []
        for question, response in pairs:
            offsets = token_offsets(run.tokenizer, response.token_ids)
            for span in locate_answer(run.ask(question), response.text, offsets):
                rows.append(SpanRow(response.question_id, response.sample, span.start, span.end, "lexical"))
        return rows, {"no span": len(pairs) - len({row.question_id for row in rows})}
    if c.spans == "openai":
        labeller = OpenAILabeller(_chat(c, c.judge), run.out / "span-cache.jsonl")
        labeller.ask_all(pairs)
        found = label_spans(pairs, run.tokenizer, labeller, c.spans)
    elif c.spans == "short-answer":
        found = label_spans(pairs, run.tokenizer, ShortAnswerLabeller(_short_answers(run, pairs)), c.spans)
    else:
        found = label_spans(pairs, run.tokenizer, find_alias, c.spans)
    return found.rows, dict(found.unlabelled)


def _short_answers(run: Run, pairs: Sequence[tuple[Question, Response]]) -> dict[str, str]:
    """Answer-only greedy answers to the same questions, as a stage of their own."""
    if not run.config.sentences:
        raise ValueError("--spans short-answer finds short answers again in sentence answers: give --sentences too")
    settings = {**run.sampling_settings, "sentences": False, "rows": fingerprint([q.question_id for q, _ in pairs])}
    stage: Stage[Response] = Stage(run.out, "short-answers", Response, settings)
    if not stage.is_complete:
        ask_greedy(stage, [question for question, _ in pairs], run.sampler(sentences=False))
    return {row.question_id: row.text for row in stage.rows()}


def _chat(config: RunConfig, model: str) -> ChatSettings:
    if model == "alias":
        raise ValueError("--spans openai needs --judge MODEL and --endpoint ADDRESS")
    return ChatSettings(model=model, base_url=config.endpoint)
