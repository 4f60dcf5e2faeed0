"""A kill, a rerun or a changed setting must never lose, mix or double rows."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from offline import stages
from offline.records import Question
from offline.stages import Stage, StageMismatchError, fingerprint

SETTINGS = {"model": "m", "seed": 0}


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    text: str = ""
    parts: tuple[int, ...] = ()


def open_stage(out, settings=SETTINGS):
    return Stage(out, "rows", Row, settings)


def fill(out, rows, *, finishes=True):
    stage = open_stage(out)
    with stage:
        stage.append(rows)
    if finishes:
        stage.finish(rows=len(rows))
    return stage


def test_rows_come_back_as_they_were(tmp_path):
    rows = [Row(0, "line\nbreak\r\u2028\u0085 \U0001f600 \ufffd \x00", (1, 2)), Row(1)]
    assert list(fill(tmp_path, rows).rows()) == rows
    question = Question("s/1", "who?", ("a", "b"), "s", "g")
    stage = Stage(tmp_path, "questions", Question, {})
    stage.write([question])
    assert list(Stage(tmp_path, "questions", Question, {}).rows()) == [question]


@pytest.mark.parametrize("torn", [b'{"number": 9, "te', b"{", '{"number": 9, "text": "é'.encode()[:-1]])
def test_a_torn_last_line_is_cut_and_nothing_before_it_is_lost(tmp_path, torn):
    rows = [Row(0, "é"), Row(1)]
    stage = fill(tmp_path, rows, finishes=False)
    with stage.path.open("ab") as file:
        file.write(torn)
    resumed = open_stage(tmp_path)
    assert list(resumed.rows()) == rows
    with resumed:
        resumed.append([Row(2)])
    assert list(open_stage(tmp_path).rows()) == [*rows, Row(2)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_an_error_and_no_row(tmp_path, number):
    fill(tmp_path, [Row(0)], finishes=False)
    with open_stage(tmp_path) as stage, pytest.raises(ValueError, match=r"stage rows: .*strict JSON.*number=1"):
        stage.append([Row(7), Row(1, parts=(number,))])
    assert list(open_stage(tmp_path).rows()) == [Row(0)]
    with pytest.raises(ValueError, match="JSON compliant"):
        stages.write_json(tmp_path / "x.json", {"v": number})
    assert not (tmp_path / "x.json").exists()
    with pytest.raises(ValueError, match="JSON compliant"):
        open_stage(tmp_path / "other", {"agreement": number})
    assert not (tmp_path / "other").exists()


def test_a_torn_only_line_leaves_an_empty_stage(tmp_path):
    stage = fill(tmp_path, [], finishes=False)
    stage.path.write_bytes(b'{"num')
    assert list(open_stage(tmp_path).rows()) == []


def test_appended_rows_survive_sigkill(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "from offline.records import SpanRow\n"
        "from offline.stages import Stage\n"
        "with Stage(pathlib.Path(sys.argv[1]), 'spans', SpanRow, {}) as stage:\n"
        "    stage.append([SpanRow('q', n, 0, 1, 'm') for n in range(3)])\n"
        '    stage._file.write(\'{"question_id": "torn\')\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    from offline.records import SpanRow

    stage = Stage(tmp_path, "spans", SpanRow, {})
    assert [row.sample for row in stage.rows()] == [0, 1, 2]
    assert not stage.is_complete


def test_a_complete_stage_says_so_only_after_finish(tmp_path):
    stage = fill(tmp_path, [Row(0)], finishes=False)
    assert not open_stage(tmp_path).is_complete
    stage.finish(rows=1)
    assert open_stage(tmp_path).is_complete
    assert stage.manifest == {"settings": SETTINGS, "counts": {"rows": 1}}


def test_a_kill_while_the_manifest_is_written_does_not_complete_the_stage(tmp_path, monkeypatch):
    stage = fill(tmp_path, [Row(0)], finishes=False)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.finish(rows=1)
    monkeypatch.undo()
    assert not open_stage(tmp_path).is_complete
    assert list(open_stage(tmp_path).rows()) == [Row(0)]


def test_a_stage_made_at_one_go_is_not_added_to_what_a_kill_left(tmp_path):
    fill(tmp_path, [Row(0), Row(1)], finishes=False)
    open_stage(tmp_path).write([Row(0), Row(1), Row(2)], rows=3)
    again = open_stage(tmp_path)
    assert again.is_complete
    assert list(again.rows()) == [Row(0), Row(1), Row(2)]


def test_a_stage_without_rows_can_be_complete(tmp_path):
    open_stage(tmp_path).finish(rows=0)
    assert open_stage(tmp_path).is_complete


def test_other_settings_are_named_with_the_way_out(tmp_path):
    fill(tmp_path, [Row(0)])
    with pytest.raises(StageMismatchError, match=r"'seed': 0.*'seed': 1.*another --out, or delete rows\.\* ") as caught:
        open_stage(tmp_path, {**SETTINGS, "seed": 1})
    assert "'m'" not in str(caught.value)  # what did not change is not named
    with pytest.raises(StageMismatchError, match="'new'"):
        open_stage(tmp_path, {**SETTINGS, "new": True})
    assert list(open_stage(tmp_path).rows()) == [Row(0)]  # the error changed nothing


def test_the_way_out_that_the_error_names_makes_the_stage_anew(tmp_path):
    fill(tmp_path, [Row(0)])
    for path in tmp_path.glob("rows.*"):
        path.unlink()
    anew = open_stage(tmp_path, {**SETTINGS, "seed": 1})
    assert not anew.is_complete
    assert list(anew.rows()) == []


def test_a_manifest_left_behind_does_not_complete_a_new_stage(tmp_path):
    fill(tmp_path, [Row(0)])
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "rows.settings.json").unlink()
    assert not open_stage(tmp_path, {**SETTINGS, "seed": 1}).is_complete


def test_a_complete_stage_whose_rows_were_deleted_is_made_again(tmp_path):
    fill(tmp_path, [Row(0)])
    (tmp_path / "rows.jsonl").unlink()
    assert not open_stage(tmp_path).is_complete


def test_rows_of_unknown_settings_are_not_continued(tmp_path):
    fill(tmp_path, [Row(0)])
    (tmp_path / "rows.settings.json").unlink()
    with pytest.raises(StageMismatchError, match=r"rows\.settings\.json.*is gone"):
        open_stage(tmp_path)


def test_settings_that_json_would_change_still_match_on_resume(tmp_path):
    settings = {"pair": (1, 2), "path": tmp_path}
    open_stage(tmp_path, settings)
    assert open_stage(tmp_path, settings).settings["pair"] == [1, 2]


def test_the_fingerprint_follows_the_settings_and_not_their_order(tmp_path):
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert open_stage(tmp_path).fingerprint == fingerprint(SETTINGS)


def test_json_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    stages.write_json(path, {"v": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.write_json(path, {"v": 2})
    assert json.loads(path.read_text()) == {"v": 1}
    assert os.path.exists(path)
