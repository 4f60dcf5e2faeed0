"""Metrics of units against slow definitions; a document that is repeated inside itself must not look like evidence."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from offline.longer_text.labelled_text import hash_of
from offline.longer_text.unit_metrics import (
    DocumentBootstrap,
    auroc_of,
    best_threshold,
    f1_of,
    interval_of,
    same_text_auroc_of,
    summarise_units,
)
from offline.longer_text.unit_scores import SCORES, ScoredUnit
from offline.metrics import auroc

N_DOCUMENTS = 40


def make_units(seed, *, n=200, levels=2):
    """Tied scores whose level differs by document, so that units of one document go together."""
    draw = np.random.default_rng(seed)
    documents = np.sort(np.append(np.arange(N_DOCUMENTS), draw.integers(N_DOCUMENTS, size=n - N_DOCUMENTS)))
    offsets = draw.normal(size=N_DOCUMENTS)
    labels = (draw.random(n) < 1 / (1 + np.exp(-2 * offsets[documents]))).astype(np.int64)
    scores = np.round((offsets[documents] + labels + draw.normal(size=n)) * levels) / levels
    return scores, labels, documents.astype(np.int64)


def as_units(scores, labels, documents):
    return [
        ScoredUnit(f"d{document}", f"t{document}", int(label), dict.fromkeys(SCORES, float(score)), True, False)
        for score, label, document in zip(scores, labels, documents, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_weighted_auroc_and_f1_are_those_of_rows_that_are_repeated(seed):
    scores, labels, _ = make_units(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(np.float64)
    flags = scores >= 0.5
    assert auroc_of(scores, labels)(weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    assert f1_of(flags * 1.0, labels)(weights) == pytest.approx(f1_score(labels, flags, sample_weight=weights))


def test_the_document_bootstrap_draws_whole_documents():
    scores, labels, documents = make_units(0)
    found = DocumentBootstrap(documents, seed=5, resamples=200).values(auroc_of(scores, labels))
    draw = np.random.default_rng(5)
    counts = draw.multinomial(N_DOCUMENTS, [1 / N_DOCUMENTS] * N_DOCUMENTS, size=200)
    slow = []
    for count in counts:
        rows = [
            row
            for document in range(N_DOCUMENTS)
            for row in np.flatnonzero(documents == document).tolist() * count[document]
        ]
        slow.append(auroc(scores[rows], labels[rows]))
    assert found[0] == pytest.approx(auroc(scores, labels))
    assert found[1:] == pytest.approx(slow)
    interval = interval_of(found)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_more_units_of_the_same_documents_are_not_more_evidence():
    scores, labels, documents = make_units(1)
    once = interval_of(DocumentBootstrap(documents).values(auroc_of(scores, labels)))
    repeated = [np.repeat(column, 5) for column in (scores, labels, documents)]
    again = interval_of(DocumentBootstrap(repeated[2]).values(auroc_of(repeated[0], repeated[1])))
    assert again.as_list() == once.as_list()


def test_same_text_auroc_compares_only_within_a_text():
    scores, labels, texts = make_units(2)
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(len(scores))
        for j in range(len(scores))
        if texts[i] == texts[j] and labels[i] > labels[j]
    ]
    found = same_text_auroc_of(scores, labels, texts)(np.ones(len(scores)))
    assert found == pytest.approx(np.mean(pairs))
    shifted = scores + 100 * texts  # texts that differ as a whole say nothing of their sentences
    assert same_text_auroc_of(shifted, labels, texts)(np.ones(len(scores))) == pytest.approx(found)
    assert auroc(shifted, labels) != pytest.approx(auroc(scores, labels), abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all_that_ties_allow(seed):
    scores, labels, _ = make_units(seed, levels=1)
    found = best_threshold(scores, labels)
    every = {cut: f1_score(labels, scores >= cut) for cut in np.unique(scores)}
    assert every[found] == pytest.approx(max(every.values()))
    assert found == max(cut for cut, f1 in every.items() if f1 >= max(every.values()) - 1e-12)


def test_a_draw_without_one_class_is_left_out():
    scores, labels = np.array([0.0, 1.0, 2.0]), np.array([0, 1, 1])
    values = DocumentBootstrap(np.arange(3), resamples=50).values(auroc_of(scores, labels))
    assert np.isnan(values).any()
    assert interval_of(values).as_list() == [1.0, 1.0, 1.0]


def test_the_threshold_is_chosen_without_the_half_that_judges_it():
    scores, labels, documents = make_units(3)
    in_b = np.array([int(hash_of(f"d{document}"), 16) % 2 == 1 for document in documents])
    other = np.where(in_b, -scores, scores)
    found, changed = (
        summarise_units(as_units(column, labels, documents), ["risk"], 0.5)["scores"]["risk"]
        for column in (scores, other)
    )
    assert (
        changed["chosen"]["threshold"] == found["chosen"]["threshold"] == best_threshold(scores[~in_b], labels[~in_b])
    )
    expected = f1_score(labels[in_b], scores[in_b] >= found["chosen"]["threshold"])
    assert found["chosen"]["f1"][0] == pytest.approx(expected, abs=1e-4)
    assert found["shipped"]["f1"][0] == pytest.approx(f1_score(labels[in_b], scores[in_b] >= 0.5), abs=1e-4)
    assert changed["chosen"]["f1"] != found["chosen"]["f1"]


def test_the_risk_is_compared_on_the_same_draws():
    scores, labels, documents = make_units(4)
    units = as_units(scores, labels, documents)
    found = summarise_units(units, SCORES, 0.5)
    assert (found["hallucinated"], found["faithful"]) == (labels.sum(), len(labels) - labels.sum())
    assert found["documents"] == N_DOCUMENTS
    assert found["scores"]["mean entropy"]["risk_minus_this"] == [0.0, 0.0, 0.0]  # the same numbers in all columns
    assert found["flag_all"]["flagged"] == 1.0


def test_units_of_one_class_are_an_error_that_names_the_way_out():
    scores, _, documents = make_units(5)
    with pytest.raises(ValueError, match="score more texts"):
        summarise_units(as_units(scores, np.ones(len(scores)), documents), ["risk"], 0.5)
