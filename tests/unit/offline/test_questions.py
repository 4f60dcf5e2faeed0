"""Loading questions: bad rows, names, stable samples, data set layouts and the generators."""

import gzip
import json
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from offline.labels.judge import judge_alias, split_judgeable
from offline.questions.loading import load_questions, split_spec
from offline.questions.rows import QuestionError, parse_row

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def row(number=1, **more):
    return {"id": f"q{number}", "question": f"Question {number}?", "answers": ["Yes"]} | more


def load(*specs, limit=None, seed=0):
    return load_questions(specs, limit=limit, seed=seed)


def test_jsonl_gz_and_parquet_give_the_same_questions(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [row(1, relation="capital", extra=3), row(2, answers="No", relation="capital")]
    plain = load(write(tmp_path / "plain" / "train.jsonl", *rows))
    zipped = load(write(tmp_path / "plain" / "test.jsonl.gz", *rows))
    columns = [
        dict(item, answers=list([item["answers"]] if isinstance(item["answers"], str) else item["answers"]))
        for item in rows
    ]
    parquet.write_table(pa.Table.from_pylist(columns), tmp_path / "plain" / "all.parquet")
    assert plain == zipped == load(str(tmp_path / "plain" / "all.parquet"))
    assert {(item.question_id, item.group, item.answers) for item in plain} == {
        ("plain/q1", "capital", ("Yes",)),
        ("plain/q2", "capital", ("No",)),
    }


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("/data/triviaqa/train.jsonl.gz", "triviaqa"),
        ("/data/mine.jsonl", "mine"),
        ("other=/data/mine.jsonl", "other"),
        ("/data/a=b/mine.parquet", "mine"),
        ("hf:owner/name:config:test", "name"),
        ("builtin:world", "world"),
        ("facts=builtin:world", "facts"),
    ],
)
def test_source_is_named_by_the_file_or_by_the_user(spec, name):
    assert split_spec(spec)[0] == name


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ({"id": "x", "answers": []}, "line 2: no `question`"),
        (row(2, question="  "), "line 2: `question` must be text"),
        (row(2, question=7), "line 2: `question` must be text"),
        ({"id": "x", "question": "Q?"}, "line 2: no `answers`"),
        (row(2, answers=7), "line 2: `answers` must be a list"),
        (row(2, answers=[7]), "line 2: `answers` holds int '7'"),
        (row(2, answers=[" "]), "line 2: `answers` holds only blank text"),
        (row(2, answers="['a', b']"), "line 2: `answers` looks like a list"),
        (row(2, id=[1]), "line 2: `id` must be text"),
        (row(1), "line 2: the id 'bad/q1' is also at .*line 1"),
        ("[1]", "line 2: a row is a JSON object"),
    ],
)
def test_bad_row_names_file_line_and_fix(tmp_path, bad, message):
    path = write(tmp_path / "bad.jsonl", row(1), bad)
    with pytest.raises(QuestionError, match=message) as error:
        load(path)
    assert "bad.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.jsonl", "no such file"),
        ("builtin:nothing", "builtin:world"),
        ("hf:owner/name:a:b:c", "hf:owner/name"),
    ],
)
def test_unknown_source_names_what_there_is(spec, message):
    with pytest.raises(QuestionError, match=message):
        load(spec)


def test_damaged_or_empty_file_is_told(tmp_path):
    path = Path(write(tmp_path / "cut.jsonl.gz", *(row(number) for number in range(500))))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(QuestionError, match="damaged"):
        load(str(path))
    with pytest.raises(QuestionError, match="no rows"):
        load(write(tmp_path / "empty.jsonl"))
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(QuestionError, match="unknown kind"):
        load(str(tmp_path / "text.csv"))


@pytest.mark.parametrize("answers", [["Rubik's Cube", 'the "Cube"'], '["Rubik\'s Cube", "the \\"Cube\\""]'])
def test_apostrophes_and_quotes_in_answers_survive(answers):
    assert parse_row(row(answers=answers), "here", "set").answers == ("Rubik's Cube", 'the "Cube"')


def test_list_written_as_python_literal_is_read():
    assert parse_row(row(answers="[\"O'Neill\", 'Paris']"), "here", "set").answers == ("O'Neill", "Paris")


def test_bracketed_answer_is_not_taken_for_a_list():
    assert parse_row(row(answers="[Untitled]"), "here", "set").answers == ("[Untitled]",)


def test_empty_answers_stay_empty_for_made_up_things():
    assert parse_row(row(answers=[]), "here", "set").answers == ()


def test_row_without_id_is_named_by_its_text():
    first = parse_row({"question": "Who?", "answers": ["I"]}, "a", "set")
    assert first.question_id == parse_row({"question": " Who? ", "answers": ["I"]}, "b", "set").question_id


def test_raising_the_limit_keeps_the_earlier_questions(tmp_path):
    path = write(tmp_path / "many.jsonl", *(row(number) for number in range(200)))
    fewer, more = load(path, limit=20), load(path, limit=50)
    assert fewer == more[:20]
    assert load(path, limit=20, seed=1) != fewer


def test_draw_does_not_depend_on_the_order_of_the_file(tmp_path):
    rows = [row(number) for number in range(50)]
    first = load(write(tmp_path / "a" / "set.jsonl", *rows), limit=10)
    assert load(write(tmp_path / "b" / "set.jsonl", *reversed(rows)), limit=10) == first


def test_limit_is_per_source(tmp_path):
    specs = [write(tmp_path / f"{name}.jsonl", *(row(number) for number in range(9))) for name in ("a", "b")]
    assert Counter(item.source for item in load(*specs, limit=4)) == {"a": 4, "b": 4}
    with pytest.raises(QuestionError, match="at least 1"):
        load(*specs, limit=0)


@pytest.mark.parametrize(
    ("columns", "answers", "group"),
    [
        ({"question_id": "t1", "question": "Q?", "answer": {"value": "A", "aliases": ["A", "B"]}}, ("A", "B"), ""),
        ({"question": "Q?", "answer": ["A", "B"]}, ("A", "B"), ""),
        ({"id": 4, "question": "Q?", "prop": "capital", "possible_answers": '["A", "B\'s"]'}, ("A", "B's"), "capital"),
        ({"question": "Q?", "answers": {"text": ["A"], "answer_start": [0]}}, ("A",), ""),
        ({"problem": "Q?", "answer": "A"}, ("A",), ""),
    ],
)
def test_common_data_set_layouts(columns, answers, group):
    question = parse_row(columns, "here", "set")
    assert (question.question, question.answers, question.group) == ("Q?", answers, group)


def fake_datasets(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    module.get_dataset_split_names = lambda name, config: ["test", "validation"]
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.parametrize(
    ("spec", "call"),
    [
        ("hf:owner/set", ("owner/set", None, "validation")),
        ("hf:owner/set:test", ("owner/set", None, "test")),
        ("hf:owner/set:rc.nocontext", ("owner/set", "rc.nocontext", "validation")),
        ("hf:owner/set:rc.nocontext:train", ("owner/set", "rc.nocontext", "train")),
    ],
)
def test_data_set_id_names_config_and_split(monkeypatch, spec, call):
    calls = []

    def load_dataset(name, config, split):
        calls.append((name, config, split))
        return [{"question": "Q?", "answer": ["A"]}]

    fake_datasets(monkeypatch, load_dataset)
    assert load(spec)[0].source == "set"
    assert calls == [call]


def test_data_set_that_cannot_be_had_says_what_to_do(monkeypatch):
    def load_dataset(name, config, split):
        raise ConnectionError("no network")

    fake_datasets(monkeypatch, load_dataset)
    with pytest.raises(QuestionError, match=r"owner/set.*ConnectionError: no network.*\.parquet or \.jsonl"):
        load("hf:owner/set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(QuestionError, match="pip install"):
        load("hf:owner/set")


def test_generators_are_the_same_in_every_run():
    assert load("builtin:world", "builtin:madeup", limit=100, seed=5) == [
        *load("builtin:world", limit=100, seed=5),
        *load("builtin:madeup", limit=100, seed=5),
    ]
    first, second = (load("builtin:madeup", limit=50, seed=seed) for seed in (5, 6))
    assert {item.question for item in first}.isdisjoint(item.question for item in second)


def test_world_questions_can_all_be_judged():
    questions = load("builtin:world")
    assert len(questions) > 2000
    assert len({item.group for item in questions}) > 12
    assert split_judgeable(questions)[1] == []
    assert all(judge_alias(item, f"It is {item.answers[0]}.")[0] == "right" for item in questions)
    assert not any(judge_alias(item, "I have no idea.")[0] == "right" for item in questions)


def test_made_up_questions_have_no_answer():
    questions = load("builtin:madeup")
    assert len(questions) > 3000
    assert not any(item.answers for item in questions)
    assert len({item.question for item in questions}) == len(questions)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared question sets are not on this machine")
@pytest.mark.parametrize("name", ["popqa/train", "web_questions/train", "world_facts/train"])
def test_shared_sets_load_without_losing_a_row(name):
    path = SHARED / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        count = sum(1 for _ in lines)
    assert len(load(str(path))) == count
