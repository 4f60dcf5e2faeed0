"""Question: is there a better feature of a neuron, or a better way to choose neurons, than mean CETT under L1?

    python benchmarks/feature_variants.py <the options of the finished train_probe.py run>

Reads the training rows of a finished run once more, keeps other features of every neuron, and cross-validates each
under the same standardised L1 with the folds of the run; then other ways to choose neurons. Only training rows are
read, so whoever takes the winner has seen no test row. Features of the answer tokens:

    mean, log, first, last, max   of CETT; log of CETT + 1e-6
    along h                       z_j <w_j, h> / norm(h)^2: how much of h the neuron's write makes up, signed
    along the token               z_j <w_j, u> / norm(h) with u the unit unembedding direction of the token that the row
                                  chose: how much it pushes that token, signed
    hidden L                      the residual stream after layer L (not of neurons; a baseline)
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from offline.extraction.passages import Passage
from offline.features.row_view import RowView
from offline.features.table import Table, extract_features
from offline.fitting.choose import C_STANDARDISED, FOLDS, fold_of
from offline.fitting.l1 import fit_l1_path
from offline.metrics import auroc, bootstrap
from offline.run import Run
from offline.train_probe import ask_and_label, parse_arguments, read_config
from probes.architectures import feed_forwards
from probes.cett import EPS, column_norms, h_norm

NEURON = ("mean", "log", "first", "last", "max", "along h", "along the token")
RULES = ("own", "predicting")
CAP = 1.0
"""H-neurons per mille at most, as train_probe.py has it."""


@dataclass
class Reading:
    """What one pass leaves of the wanted rows."""

    z: list[Tensor]
    h: list[Tensor]
    hidden: list[Tensor]


@dataclass
class TrainingRows:
    """Of a finished run, read once more."""

    features: dict[str, np.ndarray]
    labels: np.ndarray
    folds: np.ndarray
    lowest: np.ndarray  # log-probability of the answer tokens


def main() -> None:
    found = read_training(sys.argv[1:])
    features, labels, folds = found.features, found.labels, found.folds
    print(f"{(labels == 0).sum()} faithful, {(labels == 1).sum()} hallucinated training rows, {FOLDS} folds")
    for rule in RULES:
        for name in NEURON:
            compare_l1(f"{name}, {rule}", features[f"{name} {rule}"], labels, folds)
        compare_choices(rule, features[f"mean {rule}"], labels, folds)
        for name in sorted(key for key in features if key.startswith("hidden") and key.endswith(rule)):
            print(f"{name}: L2 {interval(out_of_fold_l2(features[name], labels, folds, 1e-3), labels)}", flush=True)


def read_training(argv: list[str]) -> TrainingRows:  # by the options of the finished run
    run = Run(replace(read_config(vars(parse_arguments(argv))), domains=()))
    table = extract_features(run, *ask_and_label(run))
    train = np.flatnonzero(table.in_split("train"))
    folds = np.array([fold_of(table.rows[row].answers_key) for row in train])
    features = read_features(run, table, train)
    return TrainingRows(features, table.labels[train], folds, table.signals["min_logprob"][train])


def read_features(run: Run, table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Feature name and rule -> [rows, neurons or D] float32."""
    model = run.model("float32")
    reader = Rereader(model)
    kept: dict[str, list[np.ndarray]] = {}
    for row in tqdm(rows, desc="features", unit="row"):
        for name, values in reader.read(table.passages[table.place[row]]):
            kept.setdefault(name, []).append(values.numpy())
    return {name: np.stack(values) for name, values in kept.items()}


class Rereader:
    """Reads one passage at a time with plain hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        parts = feed_forwards(model)
        self.downs: list[Any] = [part.output for part in parts]
        self.norms = [column_norms(down.weight) for down in self.downs]
        self.layers: Any = model.get_decoder().layers  # type: ignore[operator]
        self.unembedding: Tensor = self.model.get_output_embeddings().weight

    @torch.inference_mode()
    def read(self, passage: Passage) -> Iterator[tuple[str, Tensor]]:
        """Name and values of each feature of one passage."""
        start = len(passage.prompt_ids)
        reading = self._run(passage)
        at = torch.nonzero(passage.answer)[:, 0]
        ids = torch.tensor([*passage.token_ids, 0])
        for rule, rows in (("own", start + at), ("predicting", start + at - 1)):
            chosen = self.unembedding[ids[rows + 1]]
            if int(rows[-1]) + 1 == passage.length:  # what the last row chose is not known
                chosen = torch.cat([chosen[:-1], torch.zeros_like(chosen[-1:])])
            yield from self._pooled(rule, reading, rows, chosen / chosen.norm(dim=-1, keepdim=True).clamp(min=EPS))

    def _pooled(self, rule: str, reading: Reading, rows: Tensor, unit: Tensor) -> Iterator[tuple[str, Tensor]]:
        kept: dict[str, list[Tensor]] = {name: [] for name in NEURON}
        for z, h, norms, down in zip(reading.z, reading.h, self.norms, self.downs, strict=True):
            z_rows, h_rows = z[rows], h[rows]
            over = h_norm(h_rows) + EPS
            cett = z_rows.abs() * norms / over
            kept["mean"].append(cett.mean(0))
            kept["log"].append((cett + 1e-6).log().mean(0))
            kept["first"].append(cett[0])
            kept["last"].append(cett[-1])
            kept["max"].append(cett.amax(0))
            kept["along h"].append((z_rows * (h_rows @ down.weight) / over**2).mean(0))
            kept["along the token"].append((z_rows * (unit @ down.weight) / over).mean(0))
        for name, parts in kept.items():
            yield f"{name} {rule}", torch.cat(parts)
        for layer in range(1, len(reading.hidden), 3):
            yield f"hidden {layer:02d} {rule}", reading.hidden[layer][rows].mean(0)

    def _run(self, passage: Passage) -> Reading:
        reading = Reading([], [], [])
        hooks = []

        def keep_feed_forward(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            reading.z.append(args[0][0])
            reading.h.append(output[0])

        def keep_layer(_module: nn.Module, _args: Any, output: Any) -> None:
            reading.hidden.append((output[0] if isinstance(output, tuple) else output)[0])

        for down, layer in zip(self.downs, self.layers, strict=True):
            hooks += [down.register_forward_hook(keep_feed_forward), layer.register_forward_hook(keep_layer)]
        try:
            self.model(input_ids=torch.tensor([passage.token_ids]), use_cache=False, logits_to_keep=1)
        finally:
            for hook in hooks:
                hook.remove()
        return reading


def compare_l1(name: str, features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> None:
    """Cross-validated AUROC of the best C under the cap of H-neurons."""
    logits, counts, selected = l1_out_of_fold(features, labels, folds)
    allowed = [at for at, count in enumerate(counts) if 0 < count <= CAP / 1000 * features.shape[1]]
    if not allowed:
        print(f"{name}: no C leaves between 1 and {CAP} per mille H-neurons: {counts}")
        return
    best = max(allowed, key=lambda at: auroc(logits[at], labels))
    print(
        f"{name}: L1 C {C_STANDARDISED[best]}, {selected[best]:.0f} selected, {counts[best]:.0f} H-neurons: "
        f"{interval(logits[best], labels)}; dense L2 {interval(out_of_fold_l2(features, labels, folds, 1e-4), labels)}",
        flush=True,
    )


def l1_out_of_fold(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, list[float], list[float]]:
    """Logits [C, rows], H-neurons and selected neurons of each C, means over folds."""
    logits = np.zeros((len(C_STANDARDISED), len(labels)))
    positive, selected = np.zeros((2, len(C_STANDARDISED)))
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        view = RowView(((features, inside),)).standardised()
        assert view.center is not None
        assert view.scale is not None
        for at, fit in enumerate(fit_l1_path(view, labels[inside], C_STANDARDISED)):
            x = (features[np.ix_(outside, fit.columns)] - view.center[fit.columns]) / view.scale[fit.columns]
            logits[at, outside] = x @ fit.weights + fit.intercept
            positive[at] += (fit.weights > 0).sum() / FOLDS
            selected[at] += len(fit.columns) / FOLDS
    return logits, positive.tolist(), selected.tolist()


def compare_choices(rule: str, features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> None:
    """Other ways to choose neurons, each followed by L2 on the chosen.

    z-score: how far a neuron's mean on hallucinated answers lies from the faithful ones, in standard errors.
    stability: how often it is in L1 fits of half the rows.
    """
    for size in (46, 92, 184):
        scores = np.zeros((2, len(labels)))
        for k in range(FOLDS):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            for at, order in enumerate((by_z_score, by_stability)):
                columns = order(features[inside], labels[inside])[:size]
                model = l2(1e-2).fit(features[np.ix_(inside, columns)], labels[inside])
                scores[at, outside] = model.decision_function(features[np.ix_(outside, columns)])
        for name, values in zip(("z-score", "stability"), scores, strict=True):
            print(f"mean, {rule}: the first {size} by {name}, L2: {interval(values, labels)}", flush=True)


def by_z_score(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Columns, the largest first: difference of class means over its standard error, absolute."""
    a, b = features[labels == 1], features[labels == 0]
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) + 1e-12
    return np.argsort(-np.abs((a.mean(0) - b.mean(0)) / error))


def by_stability(features: np.ndarray, labels: np.ndarray, draws: int = 24) -> np.ndarray:
    """Columns, the most often chosen first: L1 fits of random halves (Meinshausen and Buehlmann, 2010)."""
    random = np.random.default_rng(0)
    counts = np.zeros(features.shape[1])
    for _ in range(draws):
        half = np.sort(random.choice(len(labels), len(labels) // 2, replace=False))
        for fit in fit_l1_path(RowView(((features, half),)).standardised(), labels[half], [0.04]):
            counts[fit.columns] += 1 + 1e-3 * np.abs(fit.weights)
    return np.argsort(-counts, kind="stable")


def out_of_fold_l2(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, c: float) -> np.ndarray:
    """Logits of standardised L2 from the folds that did not see the row [rows]."""
    logits = np.zeros(len(labels))
    for k in range(FOLDS):
        inside, outside = folds != k, folds == k
        logits[outside] = l2(c).fit(features[inside], labels[inside]).decision_function(features[outside])
    return logits


def l2(c: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500))


def interval(logits: np.ndarray, labels: np.ndarray) -> str:
    return str(bootstrap(auroc, logits, labels, resamples=300))


if __name__ == "__main__":
    main()
