"""The text stages together, over a tiny model: skipped when complete, and none mixes what a kill left."""

import json
from dataclasses import replace

import pytest

from offline import refresh, train_probe
from offline.records import Judgement, Question, Response
from offline.run import Run, RunConfig
from offline.stages import Stage, StageMismatchError
from probes.models import ModelReferenceError
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tiny_run import make_questions, tiny_llama


class TinyRun(Run):
    """A run whose model is in memory."""

    tokenizer = tiny_tokenizer()

    def model(self, dtype):
        return tiny_llama()


def make_config(out, questions=("questions.jsonl",), **changes):
    settings = {"model": "tiny", "out": out, "max_tokens": 6, "samples": 2, "agreement": 0.5, "batch_rows": 8}
    return RunConfig(**{**settings, "questions": tuple(map(str, questions)), **changes})


@pytest.fixture
def questions_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [{"id": q.question_id, "question": q.question, "answers": ["M", "Paris"]} for q in make_questions(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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


# Another judge than alias


class FakeJudge:
    """Finds every answer right, and remembers what it was paid for."""

    asked: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, *_):
        """Like the real one."""

    def judge_all(self, pairs):
        self.asked += [(question.question_id, response.sample) for question, response in pairs]
        return [Judgement(q.question_id, r.sample, "right", "openai:gpt") for q, r in pairs]


def judge_with_endpoint(tmp_path, monkeypatch, *, unfiltered):
    questions = [Question(f"s/{i}", f"what is {i}?", (f"answer {i}",), "s") for i in range(200)]
    greedy = [Response(q.question_id, 0, "Paris", (5,), "stop") for q in questions]
    samples = [Response("s/0", s, "Paris", (5,), "stop") for s in range(1, 11)]
    samples += [Response("s/1", s, "Paris", (5,), "stop") for s in range(1, 6)]  # left early
    monkeypatch.setattr(refresh, "OpenAIJudge", FakeJudge)
    FakeJudge.asked = []
    run = TinyRun(make_config(tmp_path / "run", samples=10, judge="gpt", endpoint="http://x", unfiltered=unfiltered))
    verdicts, made = refresh.judge(run, questions, greedy, samples, "upstream")
    return run, questions, verdicts, made


def test_a_paid_judge_is_asked_only_about_what_can_become_a_row(tmp_path, monkeypatch):
    run, questions, *_ = judge_with_endpoint(tmp_path, monkeypatch, unfiltered=5)
    fair = {q.question_id for q in refresh.unfiltered_candidates(run, questions)}
    assert len(fair) == 20
    expected = {(key, 0) for key in fair | {"s/0"}} | {("s/0", s) for s in range(1, 11)}
    assert set(FakeJudge.asked) == expected
    assert len(FakeJudge.asked) == len(expected)


def test_unfiltered_rows_come_from_the_fair_draw_and_not_from_what_was_sampled_again(tmp_path, monkeypatch):
    run, questions, verdicts, made = judge_with_endpoint(tmp_path, monkeypatch, unfiltered=5)
    fair = {q.question_id for q in refresh.unfiltered_candidates(run, questions)}
    greedy = [
        Response(q.question_id, 0, "Paris", tuple(tiny_tokenizer()("Paris").input_ids), "stop") for q in questions
    ]
    labels, _ = refresh.label(run, questions, greedy, verdicts, made)
    drawn = {row.question_id for row in labels if row.split.startswith("unfiltered")}
    assert drawn
    assert drawn <= fair


def test_the_fair_draw_knows_no_training_question_and_grows_with_the_seedless_limit(tmp_path):
    run = TinyRun(make_config(tmp_path, unfiltered=3))
    questions = [Question(f"s/{i}", "?", (f"answer {i}",), "s") for i in range(300)]
    few = refresh.unfiltered_candidates(run, questions)
    more = refresh.unfiltered_candidates(TinyRun(make_config(tmp_path, unfiltered=6)), questions)
    assert more[: len(few)] == few
    assert all(refresh.split_of(refresh.answers_key(q), 0) != "train" for q in more)


# The command line


def test_short_answer_spans_need_sentence_answers(config):
    run_text_stages(config)
    run = TinyRun(replace(config, spans="short-answer"))
    with pytest.raises(ValueError, match="give --sentences too"):
        refresh.find_spans(run, [])


def test_spans_by_a_language_model_need_one(config):
    with pytest.raises(ValueError, match="needs --judge MODEL and --endpoint"):
        refresh.find_spans(TinyRun(replace(config, spans="openai")), [])


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),  # 0.5B-Instruct is no suffix
        ("owner/name@main", "name"),
        ("/models/Llama-3.1-8B/", "Llama-3.1-8B"),
        ("files/model.Q4_K_M.gguf", "model.Q4_K_M"),
    ],
)
def test_a_probe_is_named_after_its_model(reference, name):
    assert train_probe.name_probe(reference) == name


def test_every_option_is_a_field_of_the_configuration(tmp_path):
    args = vars(train_probe.parse_arguments(["--questions", "builtin:world", "--out", str(tmp_path)]))
    args.pop("name")
    args.pop("version")
    config = RunConfig(**args)
    defaults = RunConfig(model=config.model, questions=("x",), out=tmp_path)
    assert replace(config, questions=("x",)) == defaults  # the command line's defaults are the documented ones


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--questions", "none.jsonl"], "none.jsonl"),
        (["--questions", "builtin:world", "--limit", "0"], "limit is 0"),
        (["--questions", "builtin:nothing"], "builtin"),
    ],
)
def test_errors_a_user_can_mend_are_one_line_and_code_2(tmp_path, caplog, arguments, message):
    assert train_probe.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert message in caplog.records[-1].getMessage()
    assert "\n" not in caplog.records[-1].getMessage()


def test_a_model_that_cannot_be_had_is_code_2(tmp_path, caplog, monkeypatch, questions_file):
    def refuse(_):
        raise ModelReferenceError("no such model")

    monkeypatch.setattr("offline.run.resolve_model", refuse)
    assert train_probe.main(["--questions", str(questions_file), "--out", str(tmp_path / "run")]) == 2
    assert caplog.records[-1].getMessage() == "error: no such model"


def test_no_module_here_takes_the_name_of_one_in_the_standard_library():
    """`python offline/train_probe.py` puts this folder first on the path: a select.py here broke subprocess."""
    import sys
    from pathlib import Path

    names = {path.stem for path in Path(train_probe.__file__).parent.glob("*.py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & {"torch", "numpy", "sklearn", "transformers", "datasets", "tokenizers", "joblib", "celer"}
