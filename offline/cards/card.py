"""The probe's card: what it is, how it was made and what it reached, as Markdown for people."""

from typing import Any

from offline.cards.domains import render_domains
from offline.markdown import render_table, render_triple
from probes.artifact import ProbeArtifact

METRICS = {"auroc": "AUROC", "recall_at_10_fpr": "recall at 10% FPR", "aurc": "AURC"}


def render_card(artifact: ProbeArtifact) -> str:
    """README.md of an artifact; every number comes from `artifact.card`."""
    probe, card = artifact.probe, artifact.card
    training, neurons = card["training"], card["neurons"]
    parts = [
        f"# {probe.name} {probe.version}",
        f"H-neuron probe for **{artifact.model.name or artifact.model.architecture}** "
        f"({artifact.model.architecture}, {len(artifact.model.widths)} layers, {neurons['of']:,} neurons), "
        f"made on {card['created']}.",
        _facts(artifact),
        "## How it was trained",
        _training(training),
        "## What the risk is made of",
        _risk(artifact),
        "## What it reaches",
        "Intervals are 95% percentile bootstraps (1,000 resamples within each class). Answer strings that are in both "
        f"the training and the test rows: {training['shared_answers_train_test']}.",
        *(_evidence(split, evidence) for split, evidence in card["evidence"].items()),
        "## AUROC by domain",
        render_domains(card["domains"]),
        "## H-neurons by layer",
        render_table(
            ["layer", "H-neurons"], ([str(layer), str(count)] for layer, count in neurons["h_neurons_by_layer"].items())
        ),
        "## How the fit was chosen",
        "Cross-validated on the training rows, folds disjoint by answer string; the best AUROC under the cap of "
        "H-neurons per mille.",
        _grid(card["selection"], training),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(artifact: ProbeArtifact) -> str:
    probe, neurons = artifact.probe, artifact.card["neurons"]
    facts = {
        "selected neurons (weight not 0)": neurons["selected"],
        "H-neurons (weight > 0)": f"{neurons['h_neurons']} = {neurons['per_mille']} per mille",
        "position rule": probe.position,
        "locator": probe.locator,
        "threshold (risk)": f"{probe.threshold:.3f}",
        "risk made of": ", ".join(probe.risk_model.weights),
        "calibration": probe.risk_model.calibration.kind,
        "features taken in": artifact.model.dtype,
    }
    return render_table(["", ""], ([key, str(value)] for key, value in facts.items()))


def _training(training: dict[str, Any]) -> str:
    rows = training["rows"]
    facts = {
        "sources": ", ".join(training["sources"]),
        "prompt": training["prompt"],
        "consistency filter": f"{training['sampling']}; kept where at least {training['agreement']:.0%} agree",
        "labels": f"judge: {training['judge']}; balanced within source and relation{_capped(training)}",
        "answer tokens": training["spans"],
        "fit": f"L1, {training['mode']}, C = {training['C']}{_lowered(training)}, "
        f"{'standardised' if training['standardised'] else 'raw'} CETT, "
        f"optimality breach {training['optimality_breach']:.1e}",
        "seed": training["seed"],
    }
    splits = [
        [split, str(counts.get("faithful", 0)), str(counts.get("hallucinated", 0))]
        for split, counts in rows.items()
        if "by source" not in split
    ]
    by_source = [
        [split.removesuffix(" by source"), ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))]
        for split, counts in rows.items()
        if "by source" in split
    ]
    return "\n\n".join(
        [
            render_table(["", ""], ([key, str(value)] for key, value in facts.items())),
            render_table(["split", "faithful", "hallucinated"], splits),
            render_table(["split", "rows by source"], by_source),
        ]
    )


def _risk(artifact: ProbeArtifact) -> str:
    probe, risk = artifact.probe, artifact.card["risk"]
    weights = [
        [part, f"{found['weight']:+.4f}", f"{found['per_standard_deviation']:+.2f}"]
        for part, found in risk["parts"].items()
    ]
    steps = [
        [step["part"], f"{step['cost']:+.4f} ({step['standard_error']:.4f})", "left out" if step["removed"] else "kept"]
        for step in risk["elimination"]
    ]
    budgets = [
        [f"{budget.fpr:.0%}", f"{budget.threshold:.3f}", f"[{budget.low:.3f}, {budget.high:.3f}]"]
        for budget in probe.budgets
    ]
    return "\n\n".join(
        [
            "A logistic combination of parts taken over the answer tokens, fitted on the training rows (the probe's "
            "logits out of fold) with weights that keep to each part's sign; then calibrated on the unfiltered "
            "calibration rows.",
            render_table(["part", "weight", "per standard deviation"], weights),
            "Backward elimination: what leaving a part out costs in log-loss (standard error, between answers) on rows "
            "that the fit did not see, training rows out of fold and unfiltered calibration rows. A part that costs no "
            "more than 1.645 standard errors goes, the cheapest first; a cost of 0.0000 is that of a part to which the "
            "others leave no weight of its sign.",
            render_table(["part", "cost", ""], steps),
            "Thresholds for budgets of false positives: split conformal on the faithful unfiltered calibration rows, "
            "approximate in that these rows had a say in the choice of parts; the 95% interval of the threshold is by "
            "order statistics (binomial).",
            render_table(["faithful responses flagged at most", "threshold (risk)", "95% interval"], budgets),
        ]
    )


def _evidence(split: str, evidence: dict[str, Any]) -> str:
    counts, risk, random = evidence["rows"], evidence["risk"], evidence["random neurons"]
    kind = "unfiltered, one greedy answer a question, natural rate" if "unfiltered" in split else "consistency-filtered"
    methods = [
        [name, *(render_triple(values[metric]) for metric in METRICS)] for name, values in evidence["methods"].items()
    ]
    best = random["best"]
    methods.append(["random neurons, best of 10 sets", *(render_triple(best[metric]) for metric in METRICS)])
    methods.append(
        [
            "random neurons, 10 sets (mean, range)",
            f"{random['mean']:.3f} [{random['low']:.3f}, {random['high']:.3f}]",
            "",
            "",
        ]
    )
    compared = evidence["length_correlation"]
    return "\n\n".join(
        [
            f"### {split} ({kind}): {counts['faithful']} faithful, {counts['hallucinated']} hallucinated",
            render_table(["score", *METRICS.values()], methods),
            render_table(
                ["AUROC gained", ""], ([name, render_triple(value)] for name, value in evidence["differences"].items())
            ),
            render_table(
                ["part", "in the risk", "AUROC that it adds to the other parts in the risk"],
                (
                    [part, "yes" if found["served"] else "no", render_triple(found["gain"])]
                    for part, found in evidence["parts"].items()
                ),
            ),
            render_table(
                ["risk", ""],
                [
                    ["accuracy at the threshold", render_triple(risk["accuracy_at_threshold"])],
                    ["expected calibration error", render_triple(risk["ece"])],
                    ["Brier score", render_triple(risk["brier"])],
                    ["share flagged", f"{risk['flagged']:.3f}"],
                    ["share out of domain", f"{evidence['out_of_domain']:.3f}"],
                ],
            ),
            render_table(
                ["budget", "threshold", "faithful flagged (exact binomial interval)", "hallucinated flagged"],
                (
                    [
                        f"{b['fpr']:.0%}",
                        f"{b['threshold']:.3f}",
                        render_triple(b["faithful"]),
                        render_triple(b["hallucinated"]),
                    ]
                    for b in evidence["budgets"]
                ),
            ),
            render_table(
                ["source", *(f"AUROC of {name}" for name in compared), "faithful", "hallucinated"],
                (
                    [
                        source,
                        *(render_triple(found["auroc"][name]) for name in compared),
                        str(found["faithful"]),
                        str(found["hallucinated"]),
                    ]
                    for source, found in evidence["auroc_by_source"].items()
                ),
            ),
            render_table(
                ["rank correlation with response length", "faithful", "hallucinated"],
                (
                    [name, f"{found['faithful']:+.2f}", f"{found['hallucinated']:+.2f}"]
                    for name, found in evidence["length_correlation"].items()
                ),
            ),
        ]
    )


def _capped(training: dict[str, Any]) -> str:
    """Nothing for probes that were trained before there was a cap."""
    most = training.get("answer_rows")
    return f"; at most {most} training rows of an answer, source, relation and label" if most else ""


def _lowered(training: dict[str, Any]) -> str:
    """The grid's C, where all training rows would have selected more H-neurons with it than the cap allows."""
    return "" if training["C"] == training["grid_C"] else f" (of the grid {training['grid_C']}, lowered under the cap)"


def _grid(selection: list[dict[str, Any]], training: dict[str, Any]) -> str:
    def row(candidate: dict[str, Any]) -> list[str]:
        is_chosen = all(
            candidate[theirs] == training[ours]
            for theirs, ours in (("mode", "mode"), ("C", "grid_C"), ("is_standardised", "standardised"))
        )
        return [
            candidate["mode"] + (" *" if is_chosen and candidate["position"] == training["position"] else ""),
            candidate["position"],
            "standardised" if candidate["is_standardised"] else "raw",
            str(candidate["C"]),
            f"{candidate['auroc']:.3f} ({candidate['standard_error']:.3f})",
            f"{candidate['n_selected']:.0f}",
            f"{candidate['n_h_neurons']:.0f}",
        ]

    header = ["mode", "position", "CETT", "C", "AUROC (s.e.)", "selected", "H-neurons"]
    return render_table(header, (row(candidate) for candidate in selection)) + "\n\n\\* shipped"
