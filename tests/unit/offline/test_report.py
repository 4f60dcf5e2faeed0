"""The page stands alone, shows every section, escapes what it is given, and refuses scores of another artifact."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from offline import metrics, report
from offline.report_parts import curves as curve_points
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.reports import PLANTED, write_run
from tests.unit.offline.tiny_run import tiny_llama

SECTIONS = ("what", "reaches", "limits", "table-one", "baselines", "calibration", "layers", "sources", "length")
SECTIONS += ("contexts", "noise", "making")


class Page(HTMLParser):
    """What a browser would see of a page."""

    VOID = ("meta", "img", "source", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.sections = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run, and its report with contexts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.bootstrap, "__kwdefaults__", {"seed": 0, "resamples": 20})
        patch.setattr(metrics, "RESAMPLES", 20)
        patch.setattr(curve_points, "BAND_RESAMPLES", 10)
        patch.setattr(report.Run, "model", lambda _run, _dtype: tiny_llama())
        patch.setattr(report.Run, "tokenizer", property(lambda _run: tiny_tokenizer()))
        run = write_run(tmp_path_factory.mktemp("run"))
        page = report.write_report(run, None, run / "report")
        yield run, page.read_text(encoding="utf-8")


def test_every_section_is_there_once_and_tags_close(made):
    assert tuple(Page(made[1]).sections) == SECTIONS


def test_nothing_is_loaded_from_elsewhere_and_no_script_runs(made):
    page = Page(made[1])
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
        if attributes.get("href", "#").startswith("http"):
            assert attributes["href"].startswith("https://arxiv.org/")
    assert "url(" not in made[1]
    assert "@import" not in made[1]


def test_planted_markup_is_text(made):
    assert PLANTED not in made[1]
    assert PLANTED in "".join(Page(made[1]).text)


def test_every_figure_has_alternative_text_and_a_png(made):
    run, text = made
    images = [attributes for tag, attributes in Page(text).tags if tag == "img"]
    assert images
    assert all(len(attributes["alt"]) > 20 for attributes in images)
    assert len(list((run / "report").glob("*.png"))) == len(images)


def test_a_gain_and_a_difference_that_is_none_are_told_apart(made):
    text = made[1]
    reaches, limits = text.index('id="reaches"'), text.index('id="limits"')
    gain, nothing = text.index("better by 0.041 [0.020, 0.060]"), text.index("no difference shown, -0.021")
    assert reaches < gain < limits < nothing


def test_a_broken_budget_is_told(made):
    assert "budget of 5% false alarms flags 0.200 [0.100, 0.300]" in made[1]


def test_the_last_row_of_table_one_is_the_probe(made):
    table = made[1][made[1].index('id="table-one"') : made[1].index('id="baselines"')]
    assert "83.6 (65.2)" in table
    ours = table[table.index("tiny-llama (this probe)") :].split("</tr>")[0]
    assert ours.count("<td>\u2013</td>") == 1  # BioASQ alone has no rows


def test_a_domain_without_faithful_rows_shows_what_is_flagged_of_the_others(made):
    row = made[1][made[1].index("questions left out") :].split("</tr>")[1]
    assert "<td>\u2013</td><td>0.712 [0.600, 0.800]</td>" in row
    assert "question of the run: 17" in row


def test_contexts_mark_the_token_inside_the_answer(made):
    contexts = made[1][made[1].index('id="contexts"') : made[1].index('id="noise"')]
    assert contexts.count("<mark>") == contexts.count("faithful</td>") + contexts.count("hallucinated</td>") > 0


def test_without_contexts_no_row_of_a_data_set_is_shown_and_no_model_loaded(made, tmp_path, monkeypatch):
    monkeypatch.setattr(report.Run, "model", None)
    monkeypatch.setattr(report, "make_sections", lambda *_: [])
    page = report.write_report(made[0], None, tmp_path, has_contexts=False).read_text()
    assert "planted" not in page
    assert "Curie" not in page


def test_a_second_judge_takes_the_place_of_the_heuristic(made, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "make_sections", lambda *_: [])
    verdicts = tmp_path / "verdicts.jsonl"
    rows = [{"question_id": f"s/{i}", "verdict": "right" if i < 45 else "wrong"} for i in range(60)]
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report.write_report(made[0], None, tmp_path, has_contexts=False, second_judge=verdicts).read_text()
    assert "On 60 test answers that both judged, the verdicts agree in 0.750" in page
    assert "kappa is 0.500" in page
    assert "heuristic" not in page


def test_scores_of_another_artifact_are_refused_in_one_line(made, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(made[0], copy)
    with np.load(copy / "evaluation.npz") as file:
        arrays = {**file, "artifact_sha256": np.asarray("other")}
    np.savez(copy / "evaluation.npz", **arrays)
    assert report.main([str(copy), "--without-contexts"]) == 2
    assert "another artifact" in caplog.text


def test_an_unfinished_run_is_refused_in_one_line(tmp_path, caplog):
    assert report.main([str(tmp_path)]) == 2
    assert "finish train_probe.py" in caplog.text
