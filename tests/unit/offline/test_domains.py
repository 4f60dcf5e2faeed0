"""Domains must share nothing with what was fitted, change no stage of the run, and be labelled as they are."""

import json
from dataclasses import replace

import pytest

from offline import refresh
from offline.domains import ask_domains, drop_overlap, label_domains, name_domains
from offline.labels.label import answers_key
from offline.questions.loading import load_questions
from offline.questions.rows import QuestionError
from offline.records import DOMAIN, Judgement, LabelledResponse, Question
from tests.unit.offline.tiny_run import TinyRun, make_config


def ask(number, text="What is it?", *answers, source="other"):
    return Question(f"{source}/{number}", text, answers, source)


def judged(question, verdict):
    return Judgement(question.question_id, 0, verdict, "alias")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path, questions_file):
    return make_config(tmp_path / "run", [questions_file])


def run_text_stages(config):
    run = TinyRun(config)
    questions, made = refresh.read_questions(run)
    greedy, made = refresh.sample_greedy(run, questions, made)
    samples, made = refresh.sample_again(run, questions, greedy, made)
    verdicts, made = refresh.judge(run, questions, greedy, samples, made)
    labels, made = refresh.label(run, questions, greedy, verdicts, made)
    _, made = refresh.mark_spans(run, labels, questions, greedy, made)
    return run, questions, labels, made


def settings_of(out):
    return {path.name: path.read_text() for path in out.glob("*.settings.json") if not path.name.startswith(DOMAIN)}


def test_planted_overlap_is_left_out_and_counted():
    asked = [ask(1, "Who wrote Hamlet?", "Shakespeare", source="own")]
    fitted = [answers_key(ask(0, "?", "The Eiffel Tower"))]
    offered = [
        ask(1, "who wrote 'Hamlet'", "Kyd"),
        ask(2, "What stands in Paris?", "a tower", "Eiffel  tower!"),
        replace(ask(3, "Another question?", "Lima"), question_id="own/1"),
        ask(4, "What is kept?", "Eiffel"),
        ask(5, "What is a Brupal?"),
    ]
    kept, left_out = drop_overlap(offered, asked, fitted)
    assert [q.question_id for q in kept["other"]] == ["other/4", "other/5"]
    assert left_out == {"other": {"question of the run": 2, "answer of a fitted row": 1}}


def test_no_domain_row_shares_an_answer_with_a_fitted_row_or_a_text_with_a_question(config, tmp_path):
    run, questions, labels, made = run_text_stages(config)
    labels = [
        *labels,
        LabelledResponse("facts/x", 0, "faithful", "unfiltered-calibration", "facts", "", None, "quito"),
        LabelledResponse("facts/y", 0, "faithful", "unfiltered-test", "facts", "", None, "bogota"),
    ]
    rows = [{"question": f"Domain question number {i}", "answers": [f"answer {i}"]} for i in range(20)]
    rows += [{"question": "Capital of Ecuador", "answers": ["The QUITO"]}]
    rows += [{"question": "Capital of Colombia", "answers": ["Bogota"]}]
    rows += [{"question": f" {questions[0].question.upper()} ", "answers": ["new"]}]
    changed = replace(config, domains=(write(tmp_path / "other.jsonl", rows),), domain_rows=100)
    found = ask_domains(TinyRun(changed), questions, labels, made)
    texts = [q.question for q in found.questions]
    assert len(texts) == 21
    assert "Capital of Colombia" in texts  # an answer of test rows only
    assert found.left_out["other"].items() >= {"question of the run": 1, "answer of a fitted row": 1}.items()
    assert sum(found.left_out["other"].values()) + len(found.labels) == len(rows)
    assert {row.split for row in found.labels} == {DOMAIN}
    assert {span.question_id for span in found.spans} == {row.question_id for row in found.labels}
    assert run.config.domains == ()


def test_the_most_rows_are_a_stable_draw_after_the_overlap_is_left_out(config, tmp_path):
    _, questions, labels, made = run_text_stages(config)
    rows = [{"question": f"Domain question number {i}", "answers": [f"answer {i}"]} for i in range(20)]
    sources = (write(tmp_path / "other.jsonl", rows),)
    drawn = [
        {q.question_id for q in ask_domains(TinyRun(changed), questions, labels, made).questions}
        for n in (5, 9)
        for changed in [replace(config, out=tmp_path / f"run{n}", domains=sources, domain_rows=n)]
    ]
    assert [len(ids) for ids in drawn] == [5, 9]
    assert drawn[0] < drawn[1]


def test_domains_change_no_stage_of_a_finished_run(config, tmp_path):
    _, questions, labels, made = run_text_stages(config)
    before = settings_of(config.out)
    source = write(tmp_path / "other.jsonl", [{"question": "Capital of Ecuador", "answers": ["Quito"]}])
    _, again, same_labels, same = run_text_stages(replace(config, domains=(source,), domain_rows=3))
    assert (again, same_labels, same) == (questions, labels, made)
    assert settings_of(config.out) == before
    assert set(before) == {
        f"{s}.settings.json" for s in ("questions", "greedy", "samples", "verdicts", "labels", "spans")
    }
    assert json.loads(before["questions.settings.json"]).keys() == {"questions", "limit", "seed"}
    greedy = {"model", "seed", "max_tokens", "dtype", "sentences", "questions"}
    assert json.loads(before["greedy.settings.json"]).keys() == greedy
    assert json.loads(before["spans.settings.json"]).keys() == {"labels", "spans"}


def test_without_domains_nothing_is_asked(config):
    run, questions, labels, made = run_text_stages(config)
    assert ask_domains(run, questions, labels, made) is None
    assert not list(config.out.glob("domain*"))


def test_no_rows_at_all_are_refused_in_words(config, tmp_path):
    source = write(tmp_path / "other.jsonl", [{"question": "Capital of Ecuador", "answers": ["Quito"]}])
    with pytest.raises(QuestionError, match="--domain-rows is 0; it must be at least 1"):
        ask_domains(TinyRun(replace(config, domains=(source,), domain_rows=0)), [], [], "made")


def test_made_up_questions_beside_others_are_a_domain_of_their_own():
    mixed = [ask(1, "?", "Lima"), ask(2), ask(3, source="madeup")]
    assert [q.source for q in name_domains(mixed)] == ["other", "other-madeup", "madeup"]
    assert [q.question_id for q in name_domains(mixed)] == [q.question_id for q in mixed]


def test_a_claim_about_a_made_up_thing_is_hallucinated_and_a_refusal_of_it_faithful():
    questions = [ask(i) for i in range(4)]
    verdicts = {
        q.question_id: judged(q, v) for q, v in zip(questions, ("wrong", "refusal", "refusal", "wrong"), strict=True)
    }
    rows, left_out = label_domains(questions, verdicts, {"other/0", "other/1"})
    assert [(row.question_id, row.label) for row in rows] == [("other/0", "hallucinated"), ("other/1", "faithful")]
    assert left_out == {"other": {"refused": 1, "claims nothing": 1}}


def test_a_refusal_of_a_real_question_and_an_unjudged_answer_are_no_rows():
    questions = [ask(i, "What is it?", "gold") for i in range(4)]
    verdicts = {
        q.question_id: judged(q, v) for q, v in zip(questions, ("right", "wrong", "refusal", "unjudged"), strict=True)
    }
    rows, left_out = label_domains(questions, verdicts, {q.question_id for q in questions})
    assert [row.label for row in rows] == ["faithful", "hallucinated"]
    assert left_out == {"other": {"refused": 1, "unjudged": 1}}


def test_an_answer_that_the_question_names_is_left_out():
    question = ask(1, "Is the sky blue or green?", "blue")
    rows, left_out = label_domains([question], {"other/1": judged(question, "right")}, {"other/1"})
    assert rows == []
    assert left_out == {"other": {"answer named in the question": 1}}


def test_an_existing_thing_without_accepted_answers_is_not_taken_for_a_made_up_one(tmp_path):
    """UnknownBench lists controls whose answers it does not give: every answer to them would be a hallucination."""
    rows = [
        {"id": 1, "question": "A?", "answers": [], "entity_exists": True},
        {"id": 2, "question": "B?", "answers": [], "entity_exists": False},
        {"id": 3, "question": "C?", "answers": ["c"], "entity_exists": True},
        {"id": 4, "question": "D?", "answers": []},
    ]
    questions = load_questions([write(tmp_path / "unknown.jsonl", rows)], limit=None, seed=0)
    assert {q.question_id for q in questions} == {"unknown/2", "unknown/3", "unknown/4"}
