"""Curves against scikit-learn and direct sums, slices against rows counted by hand, label noise against known cases."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_curve

from offline.evaluation.evaluate import PROBE, SERVED
from offline.evaluation.scores import load_scores, save_scores
from offline.metrics import aurc, auroc, ece
from offline.records import Judgement, Question
from offline.report_parts import curves, noise, plots, slices
from tests.unit.offline.reports import make_rows


@pytest.fixture(scope="module")
def rows():
    return make_rows(80)


def drawn_lines(draw):
    """What a figure's lines are made of."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    draw(axes, plots.COLOURS["light"])
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_the_drawn_roc_is_scikit_learns_and_its_area_the_auroc(rows):
    scores, labels = np.round(rows.of(PROBE), 1), rows.labels  # ties
    curve = curves.roc(scores, labels)
    band = curves.Band(np.zeros(101), np.ones(101))
    drawn = drawn_lines(plots.curves({"p": curve}, band, x="x", y="y", has_diagonal=True))["p"]
    fpr, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(np.interp(fpr, drawn[:, 0], drawn[:, 1]).max(), 1)
    assert np.trapezoid(drawn[:, 1], drawn[:, 0]) == pytest.approx(np.trapezoid(recall, fpr))
    assert np.trapezoid(drawn[:, 1], drawn[:, 0]) == pytest.approx(auroc(scores, labels))


def test_risk_coverage_counts_the_hallucinations_that_are_kept(rows):
    scores, labels = rows.of(SERVED), rows.labels
    kept, share = curves.coverage(scores, labels)
    order = np.argsort(scores)
    for k in (1, 7, 100, len(labels)):
        assert kept[k - 1] == pytest.approx(k / len(labels))
        assert share[k - 1] == pytest.approx(sum(labels[order[:k]]) / k)
    assert share.mean() == pytest.approx(aurc(scores, labels))


def test_risk_coverage_of_equal_scores_does_not_follow_the_order_of_rows():
    labels = np.repeat([0, 1], 50)
    assert np.allclose(curves.coverage(np.zeros(100), labels).y, 0.5)


def test_reliability_bins_add_up_to_the_calibration_error(rows):
    bins = curves.reliability(rows.risks, rows.labels)
    error = sum(b.rows * abs(b.risk - b.share) for b in bins) / len(rows.labels)
    assert error == pytest.approx(ece(rows.risks, rows.labels))
    assert all(b.low <= b.share <= b.high for b in bins)


def test_the_band_holds_the_curve_and_has_a_width(rows):
    band = curves.band(curves.roc, rows.of(SERVED), rows.labels)
    middle = np.interp(curves.GRID, *curves.roc(rows.of(SERVED), rows.labels))
    inside = (band.low <= middle + 1e-9) & (middle <= band.high + 1e-9)
    assert inside.mean() > 0.9
    assert (band.high - band.low)[10:50].min() > 0


def test_a_bucket_takes_its_ends_and_no_thin_class_is_judged(rows):
    tokens = np.full(len(rows.labels), 999)
    tokens[:30], tokens[30:40] = 2, 3  # all faithful
    tokens[40:55] = 2  # hallucinated
    found = {s.name: s for s in slices.by_length(rows, tokens)}
    assert (found["1-2"].faithful, found["1-2"].hallucinated) == (30, 15)
    kept = tokens == 2
    assert found["1-2"].auroc[PROBE].value == auroc(rows.of(PROBE)[kept], rows.labels[kept])
    assert not found["3-4"].auroc
    assert set(found) == {"1-2", "3-4"}


def test_table_one_takes_rows_by_source_and_balances_classes(rows):
    found = slices.table_one(rows)
    here = rows.sources == "triviaqa"
    right = (rows.of(PROBE)[here] > 0) == (rows.labels[here] == 1)
    recalls = [right[rows.labels[here] == label].mean() for label in (0, 1)]
    assert found["TriviaQA"].probe.value == pytest.approx(100 * np.mean(recalls))
    assert found["NQ"].faithful == 20
    assert found["NonExist"].hallucinated == 20
    assert found["BioASQ"] is None


def test_rows_of_one_class_give_a_recall_that_says_so(rows):
    found = slices.classify(rows, (rows.sources == "nq_open") & (rows.labels == 1))
    assert found.is_one_sided
    assert found.probe.low < found.probe.value < found.probe.high


def test_scores_come_back_as_they_were_written_and_hold_no_pickles(rows, tmp_path):
    save_scores(tmp_path, rows)
    loaded = load_scores(tmp_path, "x")
    for name, value in vars(rows).items():
        assert np.array_equal(getattr(loaded, name), value)
        assert np.asarray(getattr(loaded, name)).dtype != object


def test_a_damaged_file_of_scores_names_the_way_out(tmp_path):
    (tmp_path / "evaluation.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="new --version"):
        load_scores(tmp_path, "x")


def test_samples_that_waver_are_counted_by_question():
    verdicts = [Judgement("a", 0, "right", "alias"), Judgement("b", 0, "right", "alias")]
    verdicts += [Judgement("a", k, v, "alias") for k, v in enumerate(["right", "wrong", "wrong", "refusal"], start=1)]
    verdicts += [Judgement("b", 1, "right", "alias")]
    found = noise.sample_disagreement(verdicts, {"both": {"a", "b", "never sampled"}, "none": {"c"}})
    assert [(row.group, row.questions, row.share.value) for row in found] == [("both", 2, (0.75 + 0) / 2)]


def test_kappa_is_scikit_learns():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 3, 200), draw.integers(0, 3, 200)
    b[:120] = a[:120]
    assert noise.cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))


def test_a_line_that_is_no_verdict_is_named(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_text(
        json.dumps({"question_id": "a", "verdict": "right"}) + "\n" + json.dumps({"question_id": "a"}) + "\n"
    )
    with pytest.raises(ValueError, match="line 2"):
        noise.read_second_judge(path)


@pytest.mark.parametrize(
    ("response", "accepted", "near"),
    [
        ("It was Marie Curiee.", "Marie Curie", True),
        ("The Beatles, I think.", "Beatles", True),
        ("Bank of Germany", "The Germany Bank", True),
        ("18 January 1967", "19 January 1967", False),
        ("Paris", "Parma", False),
        ("Nile", "Niger", False),
        ("Who wrote it", "The who", False),
    ],
)
def test_near_matches_are_near_and_nothing_else(response, accepted, near):
    assert noise.is_near("Who is the man in the band?", response, accepted) == near


def test_near_matches_are_counted_over_all_rows():
    question = Question("a", "Who?", ("Marie Curie",), "s")
    found = noise.find_near_matches([(question, "Marie Curry"), (question, "Albert Einstein")])
    assert (len(found.found), found.of, found.share.value) == (1, 2, 0.5)


@pytest.mark.parametrize(("a", "b"), [("kitten", "kittens"), ("washington", "washingtn"), ("abcdefghij", "abcdefghix")])
def test_edit_similarity_counts_edits(a, b):
    assert noise.edit_similarity(a, b) == pytest.approx(1 - 1 / max(len(a), len(b)))
