"""In which answers the H-neurons with the largest weights are most active, measured on the model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from offline.evaluation.scores import EvaluatedRows
from offline.metrics import Floats, Interval, Ints, auroc, bootstrap
from offline.records import Question
from offline.report_parts.texts import Texts
from offline.run import Run
from probes.artifact import ProbeArtifact
from probes.fingerprint import check_model
from probes.neurons import NeuronSet
from probes.positions import align_rows
from probes.spans import token_offsets
from probes.tap import HeadTap

NEURONS = 12
CONTEXTS = 5
PASSAGES = 300
QUESTION_CHARACTERS = 160


@dataclass(frozen=True)
class Context:
    """One answer, and the token on which the neuron is most active."""

    question: str
    before: str
    token: str
    after: str
    is_hallucinated: bool
    cett: float


@dataclass(frozen=True)
class NeuronContexts:
    """One H-neuron."""

    layer: int
    index: int
    weight: float
    """Change of the logit for one standard deviation of the feature over the training rows."""
    alone: Interval
    """AUROC of its mean CETT over the answer tokens, on the sampled answers."""
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class _Passage:
    question: Question
    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[int, ...]
    """Numbers of the answer tokens."""
    is_hallucinated: bool


def find_contexts(
    run: Run, artifact: ProbeArtifact, rows: EvaluatedRows, texts: Texts, *, seed: int = 0
) -> list[NeuronContexts]:
    """Pass a seeded sample of the test answers through the model.

    Args:
        run: Gives the model and its prompts.
        artifact: The probe.
        rows: Evaluated rows; those of the split `test` are sampled from.
        texts: Of the run.
        seed: Of the sample.

    Raises:
        ModelMismatchError: The model is not the probe's.
    """
    probe = artifact.probe
    model = run.model(run.config.dtype)
    check_model(artifact.model, probe, model, run.tokenizer)
    weights = probe.weights * rows.feature_std
    chosen = np.sort(np.argsort(-weights, kind="stable")[: min(NEURONS, len(probe.h_neurons))])
    neurons = NeuronSet.from_flat(probe.neurons.widths, probe.neurons.flat[chosen])
    passages = _sample(rows, texts, seed)
    tap = HeadTap(model, neurons)
    with tap.attached(scales=False):
        cett = [_read(run, tap, model, artifact, passage) for passage in passages]
    labels = np.array([passage.is_hallucinated for passage in passages], dtype=np.int64)
    found = [
        NeuronContexts(
            layer=int(neurons.layer[k]),
            index=int(neurons.index[k]),
            weight=float(weights[chosen[k]]),
            alone=_alone(cett, labels, k),
            contexts=tuple(_contexts(run, passages, cett, k)),
        )
        for k in range(len(neurons))
    ]
    return sorted(found, key=lambda neuron: -neuron.weight)


def _sample(rows: EvaluatedRows, texts: Texts, seed: int) -> list[_Passage]:
    at = np.flatnonzero(rows.splits == "test")
    picked = np.sort(np.random.default_rng(seed).permutation(at)[:PASSAGES])
    passages = []
    for row in picked.tolist():
        key = str(rows.question_ids[row])
        response = texts.greedy[key]
        tokens = tuple(sorted({t for span in texts.spans[key] for t in range(span.start, span.end)}))
        is_hallucinated = bool(rows.labels[row])
        passages.append(_Passage(texts.questions[key], response.text, response.token_ids, tokens, is_hallucinated))
    return passages


@torch.inference_mode()
def _read(run: Run, tap: HeadTap, model: torch.nn.Module, artifact: ProbeArtifact, passage: _Passage) -> Floats:
    """CETT of the answer tokens [answer tokens, neurons]."""
    ids = torch.tensor([[*run.encode(passage.question), *passage.token_ids]], device=tap.device)
    n = len(passage.token_ids)
    tap.begin(1, last=n + 1)
    model(input_ids=ids, use_cache=False)
    of_token = align_rows(list(tap.read().cett[0].double().cpu().numpy()), n, artifact.probe.position)
    return np.stack([of_token[token] for token in passage.tokens])


def _alone(cett: list[Floats], labels: Ints, k: int) -> Interval:
    return bootstrap(auroc, np.array([values[:, k].mean() for values in cett]), labels)


def _contexts(run: Run, passages: list[_Passage], cett: list[Floats], k: int) -> Iterator[Context]:
    peaks = np.array([values[:, k].max() for values in cett])
    for row in np.argsort(-peaks, kind="stable")[:CONTEXTS].tolist():
        passage = passages[row]
        token = passage.tokens[int(cett[row][:, k].argmax())]
        start, end = token_offsets(run.tokenizer, passage.token_ids)[token]
        asked = passage.question.question
        short = asked if len(asked) <= QUESTION_CHARACTERS else asked[: QUESTION_CHARACTERS - 1] + "…"
        text = passage.text
        yield Context(short, text[:start], text[start:end], text[end:], passage.is_hallucinated, float(peaks[row]))
