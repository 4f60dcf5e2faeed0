"""The text stages together, over a tiny model: skipped when complete, and none mixes what a kill left."""

import json
from dataclasses import replace

import pytest

from offline import refresh
from offline.records import Question
from offline.stages import Stage, StageMismatchError
from tests.unit.offline.tiny_run import TinyRun, make_config, make_questions


def run_text_stages(config):
    run = TinyRun(config)
    questions, made = refresh.read_questions(run)
    greedy, made = refresh.sample_greedy(run, questions, made)
    samples, made = refresh.sample_again(run, questions, greedy, made)
    verdicts, made = refresh.judge(run, questions, greedy, samples, made)
    labels, made = refresh.label(run, questions, greedy, verdicts, made)
    spans, made = refresh.mark_spans(run, labels, questions, greedy, made)
    return {"questions": questions, "greedy": greedy, "samples": samples, "verdicts": verdicts, "labels": labels} | {
        "spans": spans,
        "made": made,
    }


def as_text(found):
    """Rows in an order that does not depend on when they were finished."""
    return {name: sorted(map(str, rows)) for name, rows in found.items()}


@pytest.fixture
def config(tmp_path, questions_file):
    return make_config(tmp_path / "run", [questions_file])


@pytest.mark.parametrize("stage", ["questions", "verdicts", "labels", "spans"])
def test_a_kill_while_a_stage_is_written_at_one_go_doubles_nothing(config, tmp_path, monkeypatch, stage):
    expected = as_text(run_text_stages(replace(config, out=tmp_path / "undisturbed")))
    real = Stage.finish

    def killed(self, **counts):
        if self.name == stage:
            raise KeyboardInterrupt
        real(self, **counts)

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_text_stages(config)
    assert (config.out / f"{stage}.jsonl").exists()
    assert as_text(run_text_stages(config)) == expected


def test_a_rerun_asks_judges_and_labels_nothing_again(config, monkeypatch):
    expected = as_text(run_text_stages(config))
    for name in ("load_questions", "ask_greedy", "ask_samples", "label_responses", "find_spans"):
        monkeypatch.setattr(refresh, name, None)
    assert as_text(run_text_stages(config)) == expected


def test_the_questions_file_may_change_under_a_run(config, questions_file):
    expected = as_text(run_text_stages(config))
    questions_file.write_text("")
    assert as_text(run_text_stages(config)) == expected


@pytest.mark.parametrize(
    ("changes", "stage", "named"),
    [
        ({"limit": 3}, "questions", "limit"),
        ({"seed": 1}, "questions", "seed"),
        ({"max_tokens": 7}, "greedy", "max_tokens"),
        ({"sentences": True}, "greedy", "sentences"),
        ({"samples": 3}, "samples", "samples"),
        ({"agreement": 1.0}, "samples", "agreement"),
        ({"judge": "gpt"}, "verdicts", "judge"),
        ({"unfiltered": 5}, "labels", "unfiltered"),
        ({"spans": "alias"}, "labels", "needs_claim"),
    ],
)
def test_changed_settings_stop_at_the_first_stage_they_decide(config, changes, stage, named):
    run_text_stages(config)
    with pytest.raises(StageMismatchError, match=rf"stage {stage} in .*'{named}'.*another --out"):
        run_text_stages(replace(config, **changes))


def test_settings_that_decide_no_row_do_not_stop_a_resume(config):
    expected = as_text(run_text_stages(config))
    assert as_text(run_text_stages(replace(config, batch_rows=3, max_per_mille=5.0, device="cpu"))) == expected


def asked_by(monkeypatch):
    """Collects (question id, sample) of what a run asks its model."""
    asked, real = [], TinyRun.sampler

    def sampler(self, **style):
        inner = real(self, **style)

        class Counting:
            def draw(self, jobs, params):
                for rows in inner.draw(jobs, params):
                    asked.extend((row.question_id, row.sample) for row in rows)
                    yield rows

        return Counting()

    monkeypatch.setattr(TinyRun, "sampler", sampler)
    return asked


def test_a_larger_run_asks_only_what_an_earlier_one_did_not(config, tmp_path, monkeypatch):
    expected = run_text_stages(replace(config, out=tmp_path / "undisturbed"))
    earlier = run_text_stages(replace(config, out=tmp_path / "earlier", limit=20, agreement=1.0))
    with (tmp_path / "earlier" / "greedy.jsonl").open("a") as file:
        file.write('{"question_id": "torn')  # another process is writing there
    had = {(row.question_id, row.sample) for row in [*earlier["greedy"], *earlier["samples"]]}
    asked = asked_by(monkeypatch)
    found = run_text_stages(replace(config, reuse=tmp_path / "earlier"))
    assert as_text({**found, "made": ()}) == as_text({**expected, "made": ()})
    rows = {(row.question_id, row.sample) for row in [*expected["greedy"], *expected["samples"]]}
    assert sorted(asked) == sorted(rows - had)
    assert {sample for _, sample in rows & had} == {0, 1, 2}
    assert found["made"] == expected["made"]


def test_an_earlier_run_may_have_been_stopped_before_its_samples(config, tmp_path, monkeypatch):
    earlier = TinyRun(replace(config, out=tmp_path / "earlier"))
    greedy, _ = refresh.sample_greedy(earlier, *refresh.read_questions(earlier))
    asked = asked_by(monkeypatch)
    found = run_text_stages(replace(config, reuse=tmp_path / "earlier"))
    assert sorted(asked) == sorted((row.question_id, row.sample) for row in found["samples"])
    assert as_text({"greedy": found["greedy"]}) == as_text({"greedy": greedy})


def test_answers_about_domains_are_taken_over_too(config, tmp_path, monkeypatch):
    def ask(out, **changes):
        run = TinyRun(replace(config, out=tmp_path / out, **changes))
        stage = Stage(run.out, "domain-questions", Question, {})
        stage.write(make_questions(9, source="elsewhere"))
        return refresh.sample_greedy(run, list(stage.rows()), "made", name="domain-greedy")[0]

    refresh.sample_greedy(earlier := TinyRun(replace(config, out=tmp_path / "a")), *refresh.read_questions(earlier))
    expected, asked = ask("a"), asked_by(monkeypatch)
    assert ask("b", reuse=tmp_path / "a") == expected
    assert asked == []


def test_answers_to_another_wording_of_a_question_are_not_taken_over(config, tmp_path, monkeypatch):
    run_text_stages(replace(config, out=tmp_path / "earlier"))
    path = tmp_path / "earlier" / "questions.jsonl"
    first, *rest = map(json.loads, path.read_text().splitlines())
    path.write_text("".join(json.dumps(row) + "\n" for row in [{**first, "question": "in other words?"}, *rest]))
    asked = asked_by(monkeypatch)
    run_text_stages(replace(config, reuse=tmp_path / "earlier"))
    assert {key for key, _ in asked} == {first["question_id"]}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"max_tokens": 7}, {"sentences": True}, {"model": "other"}])
def test_answers_that_were_drawn_otherwise_are_not_taken_over(config, tmp_path, changes):
    run_text_stages(replace(config, out=tmp_path / "earlier", **changes))
    with pytest.raises(StageMismatchError, match=f"stage greedy there was made with .*{next(iter(changes))}"):
        run_text_stages(replace(config, reuse=tmp_path / "earlier"))


def test_reuse_of_a_folder_that_is_no_run_says_so(config, tmp_path):
    with pytest.raises(ValueError, match=r"--reuse .*: no run has answered there; name the folder"):
        run_text_stages(replace(config, reuse=tmp_path))


def test_every_row_is_about_the_greedy_answer_and_a_question_of_the_run(config):
    found = run_text_stages(config)
    ids = {q.question_id for q in found["questions"]}
    greedy = {row.question_id: row for row in found["greedy"]}
    assert set(greedy) == ids
    assert found["labels"]
    for row in found["labels"]:
        assert row.sample == 0
        assert row.question_id in ids
    for span in found["spans"]:
        assert 0 <= span.token_start < span.token_end <= len(greedy[span.question_id].token_ids)


def test_short_answer_spans_need_sentence_answers(config):
    run_text_stages(config)
    run = TinyRun(replace(config, spans="short-answer"))
    with pytest.raises(ValueError, match="give --sentences too"):
        refresh.find_spans(run, [])


def test_spans_by_a_language_model_need_one(config):
    with pytest.raises(ValueError, match="needs --judge MODEL and --endpoint"):
        refresh.find_spans(TinyRun(replace(config, spans="openai")), [])
