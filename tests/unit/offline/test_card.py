"""Every number on the card comes from the artifact, and the card says what is shipped."""

import itertools

import pytest

from offline.cards.card import METRICS, render_card
from offline.evaluation.domains import METHODS
from tests.unit.probes.artifacts import build_model, make_artifact

TRIPLE = [0.8123, 0.7012, 0.9034]


def make_evidence():
    return {
        "rows": {"faithful": 31, "hallucinated": 32},
        "methods": {"H-neuron probe": {"auroc": TRIPLE, "recall_at_10_fpr": TRIPLE, "aurc": TRIPLE}},
        "random neurons": {
            "mean": 0.5512,
            "low": 0.5,
            "high": 0.6,
            "best": {key: [0.6, 0.55, 0.65] for key in METRICS},
        },
        "differences": {"H-neuron probe over free signals together": [-0.0213, -0.05, 0.01]},
        "risk": {"accuracy_at_threshold": TRIPLE, "ece": TRIPLE, "brier": TRIPLE, "flagged": 0.4321},
        "parts": {"cett": {"served": True, "gain": TRIPLE}, "length": {"served": False, "gain": [-0.0312, -0.04, 0.0]}},
        "budgets": [{"fpr": 0.05, "threshold": 0.9123, "faithful": TRIPLE, "hallucinated": TRIPLE}],
        "out_of_domain": 0.0345,
        "auroc_by_source": {"facts": {"auroc": {"served risk": TRIPLE}, "faithful": 15, "hallucinated": 16}},
        "length_correlation": {"served risk": {"faithful": 0.1234, "hallucinated": -0.5}},
    }


def make_domain(name, **changes):
    scores = dict.fromkeys(METHODS, TRIPLE)
    found = {"domain": name, "is_trained": False, "left_out": {"refused": 4, "claims nothing": 2}, "reason": None}
    found |= {"rows": {"faithful": 21, "hallucinated": 22}, "auroc": scores, "gain": [0.0123, -0.01, 0.03]}
    found |= {"flagged": {"faithful": [0.111, 0.1, 0.2], "hallucinated": [0.777, 0.7, 0.8]}, "ece": TRIPLE}
    accuracy = {"served risk": TRIPLE, "H-neuron probe": [0.6, 0.5, 0.7], "random neurons": [0.551, 0.5, 0.6]}
    return found | {"out_of_domain": 0.0456, "balanced_accuracy": accuracy} | changes


ONE_CLASS = {"rows": {"faithful": 0, "hallucinated": 50}, "auroc": None, "gain": None, "balanced_accuracy": None}
ONE_CLASS |= {"reason": "0 faithful and 50 hallucinated: too few", "left_out": {}}
ONE_CLASS |= {"flagged": {"faithful": None, "hallucinated": [0.777, 0.7, 0.8]}}


@pytest.fixture(scope="module")
def artifact():
    candidate = {"mode": "3-vs-1", "position": "own", "is_standardised": False, "tokens": "answer", "auroc": 0.7}
    candidate |= {"standard_error": 0.01, "n_selected": 40.2, "n_h_neurons": 20.1}
    card = {
        "created": "2026-01-02",
        "training": {
            "sampling": "10 samples",
            "prompt": "question",
            "agreement": 0.8,
            "judge": "alias",
            "spans": "lexical",
            "seed": 7,
            "answer_rows": 20,
            "sources": ["facts", "trivia"],
            "rows": {"train": {"faithful": 400, "hallucinated": 401}, "train by source": {"trivia": 1, "facts": 800}},
            "shared_answers_train_test": 0,
            "mode": "3-vs-1",
            "grid_C": 3.0,
            "position": "own",
            "standardised": False,
            "C": 3.0,
            "optimality_breach": 1.5e-9,
        },
        "selection": [candidate | {"C": 1.0}, candidate | {"C": 3.0}, candidate | {"C": 3.0, "position": "predicting"}],
        "risk": {
            "parts": {"cett": {"weight": 0.33333, "per_standard_deviation": 1.234}},
            "elimination": [
                {"part": "length", "cost": -0.00123, "standard_error": 0.00456, "removed": True},
                {"part": "cett", "cost": 0.0678, "standard_error": 0.0123, "removed": False},
            ],
            "calibration": {"kind": "platt", "cross_validated_brier": {"platt": 0.2}},
        },
        "neurons": {
            "selected": 12,
            "h_neurons": 5,
            "per_mille": 34.7,
            "of": 46080,
            "h_neurons_by_layer": {"0": 2, "2": 3},
        },
        "evidence": {"test": make_evidence(), "unfiltered-test": make_evidence()},
        "domains": [
            make_domain("triviaqa", is_trained=True),
            make_domain("nq_open"),
            make_domain("unknownbench-madeup", **ONE_CLASS),
        ],
    }
    return make_artifact(build_model(), card=card)


@pytest.mark.parametrize(
    "words",
    [
        "# tiny 1.0.0",
        "**tiny-llama** (LlamaForCausalLM, 3 layers, 46,080 neurons), made on 2026-01-02",
        "5 = 34.7 per mille",
        "kept where at least 80% agree",
        "balanced within source and relation; at most 20 training rows of an answer, source, relation and label |",
        "the training and the test rows: 0.",
        "| train | 400 | 401 |",
        "| train | facts 800, trivia 1 |",
        "### test (consistency-filtered): 31 faithful, 32 hallucinated",
        "### unfiltered-test (unfiltered, one greedy answer a question, natural rate)",
        "| H-neuron probe | 0.812 [0.701, 0.903] |",
        "| random neurons, best of 10 sets | 0.600 [0.550, 0.650] | 0.600 [0.550, 0.650] |",
        "| random neurons, 10 sets (mean, range) | 0.551 [0.500, 0.600] |",
        "| H-neuron probe over free signals together | -0.021 [-0.050, 0.010] |",
        "| share flagged | 0.432 |",
        "| facts | 0.812 [0.701, 0.903] | 15 | 16 |",
        "| served risk | +0.12 | -0.50 |",
        "| cett | +0.3333 | +1.23 |",
        "| length | -0.0012 (0.0046) | left out |",
        "| cett | +0.0678 (0.0123) | kept |",
        "| cett | yes | 0.812 [0.701, 0.903] |",
        "| length | no | -0.031 [-0.040, 0.000] |",
        "| 5% | 0.900 | [0.700, 1.000] |",
        "| 5% | 0.912 | 0.812 [0.701, 0.903] | 0.812 [0.701, 0.903] |",
        "| share out of domain | 0.035 |",
        "| risk made of | cett, min_logprob |",
        "| 2 | 3 |",
        "optimality breach 1.5e-09",
        "## AUROC by domain",
        "| triviaqa | yes | 21 | 22 | 0.812 [0.701, 0.903] |",
        "| nq_open | no | 21 | 22 | 0.812 [0.701, 0.903] |",
        "| 0.812 [0.701, 0.903] | 0.012 [-0.010, 0.030] |",
        "| nq_open | 0.111 [0.100, 0.200] | 0.777 [0.700, 0.800] | 0.812 [0.701, 0.903] | 0.046 |",
        "| unknownbench-madeup |  | 0.777 [0.700, 0.800] |",
        "unknownbench-madeup: 0 faithful and 50 hallucinated: too few.",
        "| nq_open | claims nothing 2, refused 4 |",
        "| this served risk | 81.2 [70.1, 90.3] (55.1) | 81.2 [70.1, 90.3] (55.1) |  | 77.7 of hallucinated flagged |",
        "| this H-neuron probe | 60.0 [50.0, 70.0] (55.1) | 60.0 [50.0, 70.0] (55.1) |  |  |",
        "| Gemma-3-4B | 76.9 (62.0) | 70.7 (59.7) | 71.0 (56.0) | 71.9 (56.9) |",
    ],
)
def test_the_card_says(artifact, words):
    assert words in render_card(artifact)


def test_exactly_the_shipped_candidate_is_marked(artifact):
    marked = [line for line in render_card(artifact).splitlines() if "3-vs-1 *" in line]
    assert marked == ["| 3-vs-1 * | own | raw | 3.0 | 0.700 (0.010) | 40 | 20 |"]


def test_tables_are_whole(artifact):
    lines = render_card(artifact).splitlines()
    for head, rule in itertools.pairwise(lines):
        if rule.startswith("|---"):
            assert head.count("|") == rule.count("|")
