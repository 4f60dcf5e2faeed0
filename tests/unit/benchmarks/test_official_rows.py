"""The official scripts must read the rows that ours reads, and what they say must be taken as they mean it.

Both for a stand-in of the scripts and, where HGUARD_OFFICIAL names a checkout of github.com/thunlp/H-Neurons, for the
real ones.
"""

import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from offline.extraction.passages import Passage
from probes.prompts import encode_prompt
from probes.spans import AnswerSpan
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.benchmarks.stand_in import write_stand_in
from tests.unit.offline.tiny_run import tiny_llama

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
QUESTION = "What is the capital of France?"
NEURONS = 3 * 48


@pytest.fixture(scope="module", params=["stand-in", "official"])
def checkout(request, tmp_path_factory):
    if request.param == "stand-in":
        return write_stand_in(tmp_path_factory.mktemp("stand-in"))
    if not os.environ.get("HGUARD_OFFICIAL"):
        pytest.skip("HGUARD_OFFICIAL names no checkout of github.com/thunlp/H-Neurons")
    return Path(os.environ["HGUARD_OFFICIAL"])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def scripts(monkeypatch):
    """benchmarks/ is a folder of scripts, which import each other by their bare names."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("_official_rows")


@pytest.fixture
def official(scripts, checkout, model_folder, tmp_path):
    return scripts.OfficialRows(checkout, tmp_path / "work", model_folder)


def make_passage(text, answer, *, key="s/1", at=0, ids=None):
    """A response whose span is the at-th place of the answer."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text).input_ids if ids is None else ids
    pieces = [tokenizer.decode([token]) for token in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    begin = [place for place in range(len(text)) if text.startswith(answer, place)][at]
    start, end = int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, begin + len(answer))) + 1
    return Passage(key, tuple(encode_prompt(tokenizer, QUESTION)), tuple(ids), (AnswerSpan(start, end),))


def slow_features(token_ids, start, end):
    """Mean CETT in float64 of plain hooks, over [start, end) and over the rest [neurons]."""
    found = []

    def keep(module, args, output):
        z, h = args[0][0].double(), output[0].double()
        norms = torch.stack([column.norm() for column in module.weight.double().T])
        found.append(torch.stack([z_t.abs() * norms / h_t.norm() for z_t, h_t in zip(z, h, strict=True)]))

    hooks = [layer.mlp.down_proj.register_forward_hook(keep) for layer in tiny_llama().model.layers]
    try:
        with torch.inference_mode():
            tiny_llama()(torch.tensor([token_ids]))
    finally:
        for hook in hooks:
            hook.remove()
    cett = torch.cat(found, dim=1)
    inside = torch.zeros(len(token_ids), dtype=torch.bool)
    inside[start:end] = True
    return cett[inside].mean(0).numpy(), cett[~inside].mean(0).numpy()


def test_both_regions_are_those_of_our_span_in_float32(official, scripts):
    passage = make_passage("The capital of France is Paris.", " Paris")
    row = official.lay_out(passage, QUESTION, "The capital of France is Paris.")
    assert "".join(row.answer_tokens) == " Paris"
    assert (row.has_region, row.is_look_alike, row.is_retokenised, row.has_more_spans) == (True, False, False, False)
    official.extract([row], [scripts.ANSWER, scripts.OTHER])
    at, span = len(passage.prompt_ids), passage.spans[0]
    expected = slow_features(passage.token_ids, at + span.start, at + span.end)
    for location, values in zip((scripts.ANSWER, scripts.OTHER), expected, strict=True):
        found = np.load(official.features(row.key, location))
        np.testing.assert_allclose(found.ravel(), values, rtol=1e-4)  # bfloat16 would be off by 1e-2


def test_the_first_look_alike_is_counted_and_left_to_the_script(official, scripts):
    text = "The capital is the capital."
    passage = make_passage(text, " capital", at=1)
    row = official.lay_out(passage, QUESTION, text)
    assert row.has_region
    assert row.is_look_alike
    official.extract([row], [scripts.ANSWER])
    first = len(passage.prompt_ids) + make_passage(text, " capital", at=0).spans[0].start
    expected, _ = slow_features(passage.token_ids, first, first + len(passage.spans[0]))
    np.testing.assert_allclose(np.load(official.features(row.key, scripts.ANSWER)).ravel(), expected, rtol=1e-4)


def test_an_answer_that_the_model_cut_into_other_tokens_is_found_in_the_script_s_tokens(official):
    text, tokenizer = "The capital of France is Paris.", tiny_tokenizer()
    letters = [tokenizer.convert_tokens_to_ids("Ġ" if letter == " " else letter) for letter in text]
    row = official.lay_out(make_passage(text, " Paris", ids=letters), QUESTION, text)
    assert row.is_retokenised
    assert row.has_region
    assert not row.is_look_alike
    assert "".join(row.answer_tokens) == " Paris"
    assert len(row.answer_tokens) < len(" Paris")


def test_of_several_spans_the_first_is_marked(official):
    text = "Paris. Tokyo."
    first, second = (make_passage(text, answer) for answer in ("Paris", " Tokyo"))
    row = official.lay_out(
        Passage("s/1", first.prompt_ids, first.response_ids, first.spans + second.spans), QUESTION, text
    )
    assert row.has_more_spans
    assert "".join(row.answer_tokens) == "Paris"


def test_a_row_whose_text_lacks_the_answer_has_no_region(official):
    row = official.lay_out(make_passage("The capital of France is Paris.", " Paris"), QUESTION, "The")
    assert not row.has_region
    assert not row.is_look_alike


def test_a_torn_file_is_made_again_and_a_whole_one_is_not(official, scripts):
    text = "The capital of France is Paris."
    rows = [official.lay_out(make_passage(text, " Paris", key=key), QUESTION, text) for key in ("a/b", "a%2Fb", "a")]
    official.extract(rows, [scripts.ANSWER])
    files = [official.features(row.key, scripts.ANSWER) for row in rows]
    assert len(set(files)) == 3
    assert {path.parent for path in files} == {official.features("", scripts.ANSWER).parent}
    whole = files[0].read_bytes()
    files[1].write_bytes(whole[:-8])
    files[2].write_bytes(b"")
    before = files[0].stat().st_mtime_ns
    official.extract(rows, [scripts.ANSWER])
    assert [path.read_bytes() for path in files] == [whole] * 3
    assert files[0].stat().st_mtime_ns == before


def plant(official, scripts, n, seed):
    """Rows in which neuron 5 is high in hallucinated answers; returns labels by key."""
    draw = np.random.default_rng(seed)
    labels = {f"{seed}-{i}": int(i % 3 == 0) for i in range(n)}
    for location in (scripts.ANSWER, scripts.OTHER):
        official.features("", location).parent.mkdir(parents=True, exist_ok=True)
        for key, label in labels.items():
            values = draw.normal(size=(3, 48)).astype(np.float32)
            values[0, 5] += 2 * label * (location == scripts.ANSWER)
            np.save(official.features(key, location), values)
    return labels


@pytest.mark.parametrize("mode", ["1-vs-1", "3-vs-1"])
def test_hallucinated_is_the_positive_class_and_results_stand_in_order(official, scripts, mode):
    train, easy, hard = (plant(official, scripts, n, seed) for seed, n in enumerate((90, 40, 60)))
    ids = [official.write_ids(name, labels) for name, labels in {"train": train, "easy": easy, "hard": hard}.items()]
    fit = official.classify(scripts.Settings(mode, 0.5), *ids)
    assert np.argmax(fit.weights) == 5
    assert fit.weights.shape == (NEURONS,)
    assert len(fit.results) == 2
    for labels, printed in zip((easy, hard), fit.results, strict=True):
        scores, predicted = official.score(fit, list(labels))
        truth = np.array(list(labels.values()))
        assert printed["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
        assert printed["accuracy"] == pytest.approx((predicted == truth).mean(), abs=1e-4)
    assert fit.results[0] != fit.results[1]


def test_a_finished_fit_is_not_made_again_and_another_setting_is(official, scripts):
    ids = official.write_ids("train", plant(official, scripts, 30, 0))
    first = official.classify(scripts.Settings("1-vs-1", 0.5), ids, ids)
    before = first.saved.stat().st_mtime_ns
    assert official.classify(scripts.Settings("1-vs-1", 0.5), ids, ids) == first
    assert first.saved.stat().st_mtime_ns == before
    assert official.classify(scripts.Settings("1-vs-1", 0.5, "l2"), ids, ids).saved != first.saved


def test_a_classifier_that_fails_is_told_and_leaves_no_result(official, scripts):
    ids = official.write_ids("train", {"nowhere": 0})
    with pytest.raises(SystemExit, match="the official classifier failed"):
        official.classify(scripts.Settings("1-vs-1", 0.5), ids, ids)
    assert not list((official.folder / "fits").iterdir())
