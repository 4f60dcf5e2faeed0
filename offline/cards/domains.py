"""The card's part on domains: AUROC, shares flagged and calibration of each, and our numbers in the paper's layout."""

from collections.abc import Mapping, Sequence
from typing import Any

from offline.cards.paper_table import PAPER
from offline.evaluation.domains import METHODS
from offline.evaluation.evaluate import PROBE, RANDOM, SERVED
from offline.markdown import render_table, render_triple

PAPER_COLUMNS = {
    "TriviaQA": ("triviaqa", "triviaqa_validation"),
    "NQ": ("nq_open",),
    "BioASQ": ("bioasq",),
    "NonExist": ("unknownbench-madeup", "madeup"),
}
"""Column of the paper -> our domains that stand for it; the first one that was judged is shown."""


def render_domains(domains: Sequence[dict[str, Any]]) -> str:
    """The section, from what `offline.evaluation.domains` found."""
    return "\n\n".join(
        [
            "One greedy answer a question, unfiltered, at its natural rate. Domains that the probe was trained on are "
            "the unfiltered test rows of that source. Of the others nothing was fitted, calibrated or chosen on any "
            "row, and questions that share their text with a question of this run or an accepted answer with a fitted "
            "row are left out. Where a domain is about made-up entities, every claim is a hallucination.",
            render_table(
                ["domain", "trained on", "faithful", "hallucinated", *METHODS, f"{SERVED} over free signals"],
                [_auroc_row(found) for found in domains],
            ),
            _reasons(domains),
            render_table(
                ["domain", "faithful flagged (exact interval)", "hallucinated flagged", "ECE", "out of domain"],
                [_flagged_row(found) for found in domains],
            ),
            render_table(
                ["domain", "questions left out"],
                [[found["domain"], _left_out(found["left_out"])] for found in domains if found["left_out"]],
            ),
            "### Beside the paper",
            "Accuracy in %, of random neurons in brackets. The paper's is that of its H-neurons on balanced classes of "
            "much larger models; ours is balanced accuracy (the mean of both classes' accuracies) on unfiltered rows, "
            "of the served risk at its shipped threshold and of the H-neuron probe alone, each beside the mean of ten "
            "random sets. Where a class has too few rows, the share flagged of the other stands there.",
            render_table(["model", *PAPER_COLUMNS], _paper_rows(domains)),
        ]
    )


def _auroc_row(found: dict[str, Any]) -> list[str]:
    rows, scores = found["rows"], found["auroc"]
    cells = [render_triple(scores[name]) if scores else "" for name in METHODS]
    gain = render_triple(found["gain"]) if found["gain"] else ""
    trained = "yes" if found["is_trained"] else "no"
    return [found["domain"], trained, str(rows["faithful"]), str(rows["hallucinated"]), *cells, gain]


def _reasons(domains: Sequence[dict[str, Any]]) -> str:
    missing = [f"{found['domain']}: {found['reason']}." for found in domains if found["reason"]]
    return "AUROC by domain is left out where it says nothing. " + " ".join(missing) if missing else "AUROC by domain."


def _flagged_row(found: dict[str, Any]) -> list[str]:
    shares = [found["flagged"][label] for label in ("faithful", "hallucinated")]
    cells = [render_triple(value) if value else "" for value in (*shares, found["ece"])]
    outside = "" if found["out_of_domain"] is None else f"{found['out_of_domain']:.3f}"
    return [found["domain"], *cells, outside]


def _left_out(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))


def _paper_rows(domains: Sequence[dict[str, Any]]) -> list[list[str]]:
    by_name = {found["domain"]: found for found in domains}
    columns = [next((by_name[n] for n in names if n in by_name), None) for names in PAPER_COLUMNS.values()]
    ours = [[f"this {name}", *(_accuracy(found, name) for found in columns)] for name in (SERVED, PROBE)]
    return [*ours, *([model, *cells] for model, _, *cells in PAPER)]


def _accuracy(found: dict[str, Any] | None, method: str) -> str:
    if found is None:
        return ""
    if accuracy := found["balanced_accuracy"]:
        value, low, high = (100 * x for x in accuracy[method])
        return f"{value:.1f} [{low:.1f}, {high:.1f}] ({100 * accuracy[RANDOM][0]:.1f})"
    share = found["flagged"]["hallucinated"]
    return f"{100 * share[0]:.1f} of hallucinated flagged" if share and method == SERVED else ""
