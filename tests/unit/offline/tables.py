"""Tables of made-up or really extracted features, for the stages that fit and judge."""

import hashlib

import numpy as np

from offline.extraction.extract import FeatureStore, extract
from offline.extraction.passages import GROUPS, Passage
from offline.features.table import Table
from offline.labels.label import split_of
from offline.records import LabelledResponse
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan
from tests.unit.offline.tiny_run import encode, make_questions, tiny_llama

SPLITS = ("train", "test", "unfiltered-calibration", "unfiltered-test")


def make_row(key, label, split, *, source="s", group="", answers_key=None):
    return LabelledResponse(
        key, 0, "hallucinated" if label else "faithful", split, source, group, 1.0, answers_key or f"answer of {key}"
    )


def make_table(n=400, *, neurons=40, planted=(3, 17), seed=0, noise=0.3, sources=("a", "b")):
    """Features in which two neurons know the label, the first by a high and the second by a low CETT."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n)
    groups = {}
    for name in GROUPS:
        features = draw.random((n, neurons)) * 0.1
        if name.startswith(("answer", "response")):
            features[:, planted[0]] += 0.05 * labels + noise * 0.05 * draw.normal(size=n)
            features[:, planted[1]] += 0.05 * (1 - labels) + noise * 0.05 * draw.normal(size=n)
        groups[name] = np.clip(features, 0, None).astype(np.float16)
    splits = draw.choice(SPLITS, n, p=(0.5, 0.2, 0.15, 0.15))
    rows = tuple(
        make_row(f"{sources[i % len(sources)]}/{i}", labels[i], splits[i], source=sources[i % len(sources)])
        for i in range(n)
    )
    signals = {
        prefix + name: draw.normal(size=n)
        for prefix in ("", "response_")
        for name in ("mean_logprob", "min_logprob", "mean_entropy", "max_entropy")
    }
    signals["mean_logprob"] -= 0.3 * labels
    signals |= {name: draw.integers(1, 6, n).astype(float) for name in ("n_tokens", "response_n_tokens")}
    order = draw.permutation(n)  # rows of the arrays stand in another order than the labelled rows
    shuffled = {name: features[order] for name, features in groups.items()}
    return Table(rows, (), np.argsort(order), shuffled, signals)


def extract_table(folder, n=240, *, seed=0):
    """Features of random responses of the tiny model; a neuron's own CETT decides the label, with a little noise."""
    model = tiny_llama()
    draw = np.random.default_rng(seed)
    passages = []
    for question in make_questions(n):
        response = tuple(draw.integers(30, 300, int(draw.integers(2, 7))).tolist())
        passages.append(
            Passage(question.question_id, tuple(encode(question)), response, (AnswerSpan(0, len(response)),))
        )
    store = FeatureStore(folder, [p.key for p in passages], sum(ReducingTap(model).widths), {})
    extract(model, passages, store)
    knows = np.asarray(store.groups["answer"][:, 60], dtype=np.float64)
    labels = (knows + 0.1 * knows.std() * draw.normal(size=n) > np.median(knows)).astype(np.int64)
    rows = []
    for i, passage in enumerate(passages):
        key = hashlib.sha256(passage.key.encode()).hexdigest()[:8]
        split = split_of(key, 0)
        rows.append(make_row(passage.key, labels[i], split, answers_key=key))
        if split != "train":
            rows.append(make_row(passage.key, labels[i], f"unfiltered-{split}", answers_key=key))
    place = np.array([int(row.question_id.partition("/")[2]) for row in rows], dtype=np.int64)
    signals = {name: np.asarray(store.signals[place, number]) for number, name in enumerate(store.signal_names)}
    return Table(tuple(rows), tuple(passages), place, store.groups, signals)
