"""The last stages: fit, calibrate, evaluate, and write the artifact with its card."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline.baselines import combine, free_scores, random_neuron_scores
from offline.calibrate import choose_calibration, choose_threshold
from offline.card import render_card
from offline.evaluate import BOTH, FREE, PROBE, QUESTION, answer_overlap, evaluate
from offline.fit import export_estimator, fit_dense
from offline.l1 import L1Fit
from offline.label import count_rows
from offline.refresh import Run
from offline.row_view import RowView
from offline.select import QUESTION_ONLY, Candidate, choose, cross_validate, fit_variant, raw_units, score
from offline.stages import write_json
from offline.table import Floats, Table
from probes.artifact import GoldenTrace, ProbeArtifact, fingerprint_model, save_artifact
from probes.neurons import NeuronSet
from probes.positions import align_rows
from probes.probe import Probe
from probes.reducing_tap import ReducingTap
from probes.tap import HeadTap

log = logging.getLogger("hguard.train")

GOLDEN_SEQUENCES = 4


@dataclass(frozen=True)
class Fitted:
    """The chosen fit."""

    candidate: Candidate
    fit: L1Fit
    view: RowView
    """The training rows, in the units of the fit."""
    grid: list[dict[str, Any]]
    """Every candidate that was cross-validated, for the card."""


def fit_probe(run: Run, table: Table) -> Fitted:
    """Stage 8. Cross-validate the variants, choose, and fit the chosen one on all training rows."""
    candidates = cross_validate(table)
    neurons = table.groups["answer"].shape[1]
    chosen = choose(candidates, neurons=neurons, max_per_mille=run.config.max_per_mille)
    fits, view = fit_variant(table, table.in_split("train"), chosen.variant, [chosen.c])
    log.info("chosen: %s", chosen.as_row())
    return Fitted(chosen, fits[0], view, [candidate.as_row() for candidate in candidates])


def build_artifact(run: Run, table: Table, fitted: Fitted, *, name: str, version: str) -> Path:
    """Stages 9 to 11. Calibrate on the unfiltered calibration rows, evaluate on the test rows, write the artifact."""
    folder = run.out / "artifact" / name / version
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose another --version, or delete it")
    everything = np.ones(len(table.rows), dtype=bool)
    logits = score(table, fitted.candidate.variant.groups[0], everything, fitted.fit, fitted.view)
    calibrating = table.in_split("unfiltered-calibration")
    labels = table.labels[calibrating]
    calibration, brier = choose_calibration(logits[calibrating], labels, seed=run.config.seed)
    threshold = choose_threshold(calibration.risks(logits[calibrating]), labels)

    scores, random = _compare(run, table, fitted, logits)
    evidence = {
        split: evaluate(table, split, scores, random, calibration, threshold) for split in ("test", "unfiltered-test")
    }
    probe = _probe(run, fitted, name, version, calibration=calibration, threshold=threshold)
    card = {
        "created": time.strftime("%Y-%m-%d", time.gmtime()),
        "auroc": evidence["test"]["methods"][PROBE]["auroc"],
        "ece": evidence["unfiltered-test"]["risk"]["ece"],
        "training": _training(run, table, fitted),
        "selection": fitted.grid,
        "calibration": {"kind": calibration.kind, "cross_validated_brier": {k: round(v, 5) for k, v in brier.items()}},
        "neurons": {
            "selected": len(probe.neurons),
            "h_neurons": len(probe.h_neurons),
            "per_mille": round(probe.per_mille, 4),
            "of": probe.neurons.total,
            "h_neurons_by_layer": dict(sorted(Counter(probe.neurons.layer[probe.h_neurons].tolist()).items())),
        },
        "evidence": evidence,
    }
    artifact = ProbeArtifact(
        probe=probe,
        model=fingerprint_model(run.model(run.config.dtype), run.tokenizer, name=run.config.model),
        golden=_golden(run, table, probe),
        card=card,
    )
    saved = save_artifact(folder, artifact, render_card(artifact))
    export_estimator(folder / "estimator.joblib", probe.neurons.flat, probe.weights, probe.intercept, probe.neurons.total)
    write_json(run.out / "artifact.manifest.json", {"folder": str(folder), "sha256": saved.sha256})
    return folder


def _compare(run: Run, table: Table, fitted: Fitted, logits: Floats) -> tuple[dict[str, Floats], list[Floats]]:
    """Scores [R] of the probe and every baseline, and of the random neuron sets."""
    labels, train = table.labels, table.in_split("train")
    group = fitted.candidate.variant.groups[0]
    signals = list(free_scores(table.signals).values())
    unseen = logits.copy()
    unseen[train] = fitted.candidate.out_of_fold
    everything = np.ones(len(table.rows), dtype=bool)
    scores = {PROBE: logits, **free_scores(table.signals), FREE: combine(signals, labels, train)}
    scores[BOTH] = combine([unseen, *signals], labels, train)
    scores["dense L2 on all neurons"] = fit_dense(
        table.groups[group], table.labels[train], table.place[train], table.place
    )
    asked = choose(cross_validate(table, QUESTION_ONLY), neurons=table.groups[group].shape[1], max_per_mille=1000.0)
    fits, view = fit_variant(table, train, asked.variant, [asked.c])
    scores[QUESTION] = score(table, "prompt", everything, fits[0], view)
    size = len(fitted.fit.columns)
    random = random_neuron_scores(table.groups[group], table.place, labels, train, size, run.config.seed)
    return scores, random


def _probe(run: Run, fitted: Fitted, name: str, version: str, **more: Any) -> Probe:
    model = run.model(run.config.dtype)
    weights, intercept = raw_units(fitted.fit, fitted.view)
    neurons = NeuronSet.from_flat(ReducingTap(model).widths, fitted.fit.columns)
    return Probe(
        name=name,
        version=version,
        neurons=neurons,
        weights=weights.astype(np.float32),
        norms=HeadTap(model, neurons).norms.cpu().numpy(),
        intercept=float(intercept),
        position=fitted.candidate.variant.position,
        locator="lexical" if run.config.spans == "lexical" else "response",
        **more,
    )


@torch.inference_mode()
def _golden(run: Run, table: Table, probe: Probe) -> GoldenTrace:
    """Scores of a few test responses, computed one by one in float32."""
    model = run.model("float32")
    tap = HeadTap(model, probe.neurons)
    weights = torch.from_numpy(probe.weights).to(tap.device)[None, :]
    rows = np.flatnonzero(table.in_split("test"))
    picked = [table.passages[table.place[row]] for row in rows[np.linspace(0, len(rows) - 1, GOLDEN_SEQUENCES).astype(int)]]
    scores = []
    with tap.attached():
        for passage in picked:
            ids = torch.tensor([passage.prompt_ids + passage.response_ids], device=tap.device)
            tap.begin(1, last=len(passage.response_ids) + 1)
            model(input_ids=ids, use_cache=False)
            found = tap.read().scores(weights)[0, :, 0].cpu().numpy()
            scores.append(np.asarray(align_rows(found, len(passage.response_ids), probe.position), dtype=np.float32))
    return GoldenTrace(
        tuple(passage.prompt_ids for passage in picked), tuple(passage.response_ids for passage in picked), tuple(scores)
    )


def _training(run: Run, table: Table, fitted: Fitted) -> dict[str, Any]:
    c = run.config
    return {
        "model": c.model,
        "prompt": "question" if c.sentences else "question + answer only",
        "sampling": f"{c.samples} samples, temperature 1.0, top_p 0.9, top_k 50, {c.max_tokens} tokens",
        "agreement": c.agreement,
        "judge": c.judge,
        "spans": c.spans,
        "seed": c.seed,
        "sources": sorted({row.source for row in table.rows}),
        "rows": count_rows(table.rows),
        "shared_answers_train_test": answer_overlap(table, "train", "test"),
        "mode": fitted.candidate.variant.mode,
        "position": fitted.candidate.variant.position,
        "standardised": fitted.candidate.variant.is_standardised,
        "C": fitted.candidate.c,
        "optimality_breach": fitted.fit.certificate.breach,
    }
