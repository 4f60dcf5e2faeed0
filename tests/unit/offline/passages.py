"""Random passages of a tiny model, and how their features are read and kept."""

import numpy as np

from offline.extraction.extract import FeatureStore
from offline.extraction.passage_reader import PassageReader
from offline.extraction.passages import Passage
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan
from tests.reference.tiny_models import VOCABULARY


def make_passages(n, *, seed=0, template=()):
    """Prompts of 2 to 9 tokens after the template, responses of 1 to 8, one or two spans."""
    draw = np.random.default_rng(seed)
    passages = []
    for i in range(n):
        p, t = int(draw.integers(2, 10)), int(draw.integers(1, 9))
        ids = [*template, *draw.integers(3, VOCABULARY, p + t).tolist()]
        p += len(template)
        start = int(draw.integers(0, t))
        spans = [AnswerSpan(start, int(draw.integers(start, t)) + 1)]
        if spans[0].start > 1:
            spans.insert(0, AnswerSpan(0, 1))
        passages.append(Passage(f"s/{i}", tuple(ids[:p]), tuple(ids[p:]), tuple(spans)))
    return passages


def read(model, passages):
    """One batch of all."""
    with PassageReader(model, passages).attached() as reader:
        return reader.read(passages)


def open_store(folder, passages, model, settings=None):
    return FeatureStore(folder, [p.key for p in passages], sum(ReducingTap(model).widths), settings or {"v": 1})
