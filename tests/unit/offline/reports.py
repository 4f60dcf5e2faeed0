"""A run's folder with an evaluated probe of the tiny model, small enough to report on in a test."""

import json
from dataclasses import asdict, replace

import numpy as np

from offline.build import MANIFEST
from offline.evaluation.evaluate import FREE, PROBE, QUESTION, SERVED
from offline.evaluation.scores import EvaluatedRows, save_scores
from offline.fitting.baselines import free_scores
from offline.metrics import auroc
from offline.records import Judgement, Question, Response, SpanRow
from probes.artifact import save_artifact
from tests.unit.offline.tiny_run import tiny_llama
from tests.unit.probes.artifacts import make_artifact

PLANTED = "<script>alert('planted')</script>"
METHODS = (
    SERVED,
    PROBE,
    *free_scores(
        dict.fromkeys(("mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "response_n_tokens"), np.zeros(1))
    ),
    FREE,
    QUESTION,
)


def make_rows(n=60, *, neurons=12, seed=0, sha256="x", splits=("test", "unfiltered-test", "domain")):
    """n rows a split, half of them hallucinated; the earlier a method stands, the better it ranks."""
    draw = np.random.default_rng(seed)
    total = n * len(splits)
    labels = np.tile(np.repeat([0, 1], n // 2), len(splits))
    scores = np.stack([labels * 2.0 / (1 + k) - 0.5 + draw.normal(size=total) for k in range(len(METHODS))])
    sources = np.tile(np.array(["triviaqa", "b"], dtype="<U20"), total // 2)
    of_split = np.repeat(np.array(splits), n)
    sources[of_split == "domain"] = np.where(sources[of_split == "domain"] == "b", "nq_open", "unknown-madeup")
    return EvaluatedRows(
        artifact_sha256=sha256,
        question_ids=np.array([f"s/{i % n}" for i in range(total)]),
        splits=of_split,
        sources=sources,
        labels=labels,
        answer_tokens=draw.integers(1, 5, total),
        response_tokens=draw.integers(3, 40, total),
        methods=METHODS,
        scores=scores,
        random=draw.normal(size=(3, total)),
        risks=1 / (1 + np.exp(-scores[0])),
        feature_std=draw.random(neurons) + 0.1,
    )


def make_evidence(rows, split):
    """What the card says of a split, with the AUROCs that the rows have."""
    here = rows.take(rows.splits == split)
    methods = {}
    for method in rows.methods:
        value = auroc(here.of(method), here.labels)
        methods[method] = {name: [value, value - 0.1, value + 0.1] for name in ("auroc", "recall_at_10_fpr", "aurc")}
    triple = [0.5123, 0.4, 0.6]
    return {
        "rows": {"faithful": int((here.labels == 0).sum()), "hallucinated": int(here.labels.sum())},
        "methods": methods,
        "random neurons": {"mean": 0.5512, "low": 0.5, "high": 0.6, "best": next(iter(methods.values()))},
        "differences": {f"{SERVED} over {FREE}": [0.0411, 0.02, 0.06], f"{PROBE} over {FREE}": [-0.0213, -0.05, 0.01]},
        "risk": {"accuracy_at_threshold": triple, "ece": triple, "brier": triple, "flagged": 0.4},
        "parts": {"cett": {"served": True, "gain": triple}, "length": {"served": False, "gain": [0.0, -0.01, 0.01]}},
        "budgets": [{"fpr": 0.05, "threshold": 0.9123, "faithful": [0.2, 0.1, 0.3], "hallucinated": triple}],
        "out_of_domain": 0.0345,
    }


def make_card(rows):
    candidate = {"mode": "1-vs-1", "position": "own", "is_standardised": True, "C": 0.03}
    candidate |= {"auroc": 0.7, "standard_error": 0.01, "n_selected": 40.2, "n_h_neurons": 20.1}
    return {
        "created": "2026-01-02",
        "training": {
            "sampling": "10 samples",
            "prompt": "question",
            "agreement": 0.5,
            "judge": "alias",
            "spans": "lexical",
            "sources": ["triviaqa", "b"],
            "rows": {"train": {"faithful": 400, "hallucinated": 401}},
            "shared_answers_train_test": 0,
            "mode": "1-vs-1",
            "position": "own",
            "standardised": True,
            "C": 0.03,
        },
        "selection": [candidate],
        "risk": {
            "elimination": [{"part": "length", "cost": -0.00123, "standard_error": 0.00456, "removed": True}],
        },
        "domains": [
            {
                "domain": "nq_open",
                "is_trained": False,
                "flagged": {"faithful": None, "hallucinated": [0.7123, 0.6, 0.8]},
                "ece": [0.3, 0.2, 0.4],
                "left_out": {"question of the run": 17},
            }
        ],
        "evidence": {split: make_evidence(rows, split) for split in ("test", "unfiltered-test")},
    }


def write_run(folder, *, n=60):
    """A complete run, as far as a report reads it; the answer to s/0 holds a planted script."""
    rows = make_rows(n)
    artifact = make_artifact(tiny_llama(), card=make_card(rows), name="tiny")
    rows = replace(rows, feature_std=np.linspace(0.5, 1.5, len(artifact.probe.neurons)))
    folder.mkdir(parents=True, exist_ok=True)
    saved = save_artifact(folder / "artifact" / "tiny" / "1.0.0", artifact, "card")
    save_scores(folder, replace(rows, artifact_sha256=saved.sha256))
    (folder / MANIFEST).write_text(json.dumps({"folder": "artifact/tiny/1.0.0"}))
    draw = np.random.default_rng(1)
    ids = [f"s/{i}" for i in range(n)]
    questions = [
        Question(key, f"Who is {PLANTED} number {i}?", ("Marie Curie",), "triviaqa") for i, key in enumerate(ids)
    ]
    responses = [
        Response(key, 0, f"Marie Currie {PLANTED}", tuple(draw.integers(30, 300, 5).tolist()), "stop") for key in ids
    ]
    verdict_of = {f"s/{i}": "right" if i < n // 2 else "wrong" for i in range(n)}
    verdicts = [Judgement(key, 0, verdict_of[key], "alias") for key in ids]
    verdicts += [Judgement(key, k, "right", "alias") for key in ids for k in (1, 2)]
    spans = [SpanRow(key, 0, 1, 4, "lexical") for key in ids]
    for stage, stage_rows in (
        ("questions", questions),
        ("greedy", responses),
        ("verdicts", verdicts),
        ("spans", spans),
    ):
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in stage_rows))
    (folder / "greedy.settings.json").write_text(json.dumps({"sentences": False}))
    return folder
