"""The last stages: calibrate, evaluate, and write the artifact with its card."""

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from offline.cards.card import render_card
from offline.domains import DomainAnswers
from offline.evaluation.domains import evaluate_domains
from offline.evaluation.evaluate import (
    BOTH,
    FREE,
    HELD,
    PROBE,
    QUESTION,
    RESIDUAL,
    SERVED,
    Contest,
    answer_overlap,
    evaluate,
)
from offline.evaluation.scores import gather_scores, save_scores
from offline.features.p_true import SIGNAL as P_TRUE
from offline.features.table import Floats, Table
from offline.fitting.baselines import combine, free_scores, random_neuron_scores
from offline.fitting.choose import fit_variant, raw_units, score
from offline.fitting.combination import Columns
from offline.fitting.fit import export_estimator, fit_dense
from offline.fitting.probe import Fitted, locator_of
from offline.fitting.risk import ServedRisk, fit_risk
from offline.golden import make_golden
from offline.labels.label import ANSWER_ROWS, count_rows
from offline.records import DOMAIN
from offline.run import Run, RunConfig
from offline.stages import write_json
from probes.artifact import SCHEMA_VERSION, ProbeArtifact, save_artifact
from probes.fingerprint import fingerprint_model
from probes.neurons import NeuronSet
from probes.probe import Probe
from probes.reducing_tap import ReducingTap
from probes.reference import make_reference
from probes.tap import HeadTap

log = logging.getLogger("hguard.train")

MANIFEST = "artifact.manifest.json"
REFERENCE = "unfiltered-test"
"""Rows whose risks live ones are compared with: at their natural rate, and nothing was fitted on them."""


def find_finished(
    config: RunConfig, upstream: str, name: str, version: str, domains: DomainAnswers | None = None
) -> Path | None:
    """The artifact that an earlier run with these settings wrote, or None.

    Raises:
        FileExistsError: Another one stands in its place.
    """
    folder, manifest = artifact_folder(config, name, version), config.out / MANIFEST
    if not folder.exists():
        return None
    written = json.loads(manifest.read_text()) if manifest.exists() else {}
    settings = _settings(config, upstream, domains)
    if written.get("folder") == _place(config, folder) and written.get("settings") == settings:
        return folder
    raise FileExistsError(f"{folder} exists and is not what this command makes: choose another --version, or delete it")


def build_artifact(
    run: Run,
    table: Table,
    fitted: Fitted,
    upstream: str,
    *,
    name: str,
    version: str,
    domains: DomainAnswers | None = None,
) -> Path:
    """Stages 9 to 11. Combine and calibrate the risk, evaluate on the test rows, write the artifact."""
    folder = artifact_folder(run.config, name, version)
    everything = np.ones(len(table.rows), dtype=bool)
    locator = locator_of(run.config)
    logits = score(table, fitted.served_group(locator), everything, fitted.fit, fitted.view)
    unseen = logits.copy()
    unseen[table.in_split("train")] = fitted.candidate.out_of_fold
    heads: Columns = {"cett": unseen, "residual": fitted.residual.unseen}
    risk = fit_risk(table, heads, locator, seed=run.config.seed)
    contest = _compare(run, table, fitted, risk, logits, unseen)
    evidence = {split: evaluate(table, split, contest) for split in ("test", "unfiltered-test")}
    log.info("evaluate: AUROC %s", {split: found["methods"][SERVED]["auroc"] for split, found in evidence.items()})
    probe = _probe(run, fitted, risk, name, version)
    card = {
        "created": time.strftime("%Y-%m-%d", time.gmtime()),
        "auroc": evidence["test"]["methods"][SERVED]["auroc"],
        "ece": evidence["unfiltered-test"]["risk"]["ece"],
        "training": _training(run, table, fitted),
        "selection": fitted.grid,
        "residual_selection": fitted.residual.grid,
        "risk": risk.chosen,
        "neurons": {
            "selected": len(probe.neurons),
            "h_neurons": len(probe.h_neurons),
            "per_mille": round(probe.per_mille, 4),
            "of": probe.neurons.total,
            "h_neurons_by_layer": dict(sorted(Counter(probe.neurons.layer[probe.h_neurons].tolist()).items())),
        },
        "evidence": evidence,
        "domains": evaluate_domains(table, contest, domains.left_out if domains else {}),
    }
    artifact = ProbeArtifact(
        probe=probe,
        model=fingerprint_model(run.model(run.config.dtype), run.tokenizer, name=run.config.model),
        golden=make_golden(run, table, probe),
        card=card,
        reference=make_reference(risk.model.calibration.risks(risk.logits[table.in_split(REFERENCE)]), REFERENCE),
    )
    saved = save_artifact(folder, artifact, render_card(artifact))
    export_estimator(
        folder / "estimator.joblib", probe.neurons.flat, probe.weights, probe.intercept, probe.neurons.total
    )
    save_scores(run.out, gather_scores(table, contest, (*evidence, DOMAIN), saved.sha256, _feature_std(table, fitted)))
    settings = _settings(run.config, upstream, domains)
    write_json(run.out / MANIFEST, {"folder": _place(run.config, folder), "settings": settings, "sha256": saved.sha256})
    return folder


def artifact_folder(config: RunConfig, name: str, version: str) -> Path:
    """Where a run writes its artifact."""
    return config.out / "artifact" / name / version


def _place(config: RunConfig, folder: Path) -> str:
    """The artifact's folder inside the run's, which may be moved, or named in another way by the next command."""
    return folder.relative_to(config.out).as_posix()


def _settings(config: RunConfig, upstream: str, domains: DomainAnswers | None) -> dict[str, Any]:
    """What decides the artifact, beside its name and version."""
    return {
        "schema": SCHEMA_VERSION,
        "spans": upstream,
        "dtype": config.dtype,
        "max_per_mille": config.max_per_mille,
        **({"domains": domains.made} if domains else {}),
    }


def _compare(run: Run, table: Table, fitted: Fitted, risk: ServedRisk, logits: Floats, unseen: Floats) -> Contest:
    """Scores of the served risk, the probe and every baseline."""
    labels, train = table.labels, table.in_split("train")
    group = fitted.candidate.variant.groups[0]
    signals = list(free_scores(table.signals).values())
    everything = np.ones(len(table.rows), dtype=bool)
    scores = {SERVED: risk.logits, PROBE: logits, **free_scores(table.signals)}
    scores |= {FREE: combine(signals, labels, train), HELD: risk.free}
    scores[BOTH] = combine([unseen, *signals], labels, train)
    if P_TRUE in table.signals:
        scores["p(True), asked"] = -table.signals[P_TRUE]
    scores[RESIDUAL] = fitted.residual.logits
    scores["dense L2 on all neurons"] = fit_dense(
        table.groups[group], table.labels[train], table.place[train], table.place
    )
    fits, view = fit_variant(table, train, fitted.asked.variant, [fitted.asked.c])
    scores[QUESTION] = score(table, "prompt", everything, fits[0], view)
    size = len(fitted.fit.columns)
    random = random_neuron_scores(table.groups[group], table.place, labels, train, size, run.config.seed)
    return Contest(scores, random, risk)


def _probe(run: Run, fitted: Fitted, risk: ServedRisk, name: str, version: str) -> Probe:
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
        locator=locator_of(run.config),
        risk_model=risk.model,
        domain=risk.domain,
        threshold=risk.threshold,
        budgets=risk.budgets,
        residual=fitted.residual.head if "residual" in risk.model.weights else None,
    )


def _feature_std(table: Table, fitted: Fitted) -> Floats:
    """Of the selected neurons over the training rows [K], in flat order as the probe has them."""
    group = table.groups[fitted.candidate.variant.groups[0]]
    columns = np.sort(fitted.fit.columns)
    train = table.place[table.in_split("train")]
    return np.asarray(np.std(group[train[:, None], columns], axis=0, dtype=np.float64))


def _training(run: Run, table: Table, fitted: Fitted) -> dict[str, Any]:
    c = run.config
    own = [row for row in table.rows if row.split != DOMAIN]
    return {
        "model": c.model,
        "prompt": "question" if c.sentences else "question + answer only",
        "sampling": f"{c.samples} samples, temperature 1.0, top_p 0.9, top_k 50, {c.max_tokens} tokens",
        "agreement": c.agreement,
        "judge": c.judge,
        "answer_rows": ANSWER_ROWS,
        "spans": c.spans,
        "seed": c.seed,
        "sources": sorted({row.source for row in own}),
        "rows": count_rows(own),
        "shared_answers_train_test": answer_overlap(table, "train", "test"),
        "mode": fitted.candidate.variant.mode,
        "position": fitted.candidate.variant.position,
        "standardised": fitted.candidate.variant.is_standardised,
        "C": round(fitted.c, 5),
        "grid_C": fitted.candidate.c,
        "optimality_breach": fitted.fit.certificate.breach,
    }
