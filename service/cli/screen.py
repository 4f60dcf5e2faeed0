"""Screen: an answer in colours while it comes, and its judgement in words. Colours say nothing that words do not."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from service.cli.words import one_line, safe

STATUS_WORDS = {
    "scored": "scored",
    "partial": "scored; some tokens outside of the claim were not",
    "failed": "NOT SCORED: the guard failed, and the server serves what it could not judge (fail_open)",
    "no_answer": "NOT SCORED: no factual claim was found in the answer",
    "disabled": "not scored: the policy is off",
}
ACTION_WORDS = {
    "none": "none",
    "flagged": "FLAGGED: the risk is at or over the threshold",
    "blocked": "BLOCKED: the answer is withheld",
    "abstained": "ABSTAINED: another text stands in for the answer",
    "stopped": "STOPPED: the answer was cut where its risk crossed the threshold",
    "suppressed": "SUPPRESSED: answered again with the H-neurons scaled down",
}
_CALM, _HALF, _ALARMED = (0, 145, 0), (200, 150, 0), (215, 0, 0)
"""Of a risk of 0, 0.5 and 1; readable on dark and light ground."""


class Screen:
    """Answers go to standard output, judgements to standard error: `hguard ask ... > file` keeps the answer alone."""

    def __init__(self, *, is_plain: bool) -> None:
        self._answer = _console(sys.stdout, is_plain=is_plain)
        self._notes = _console(sys.stderr, is_plain=is_plain)

    def token(self, text: str, risk: float | None) -> None:
        """One token, in the colour of its risk."""
        if self._answer.color_system is None:  # rich would turn tabs into spaces
            self._answer.file.write(safe(text))
            self._answer.file.flush()
        else:
            self._answer.print(Text(safe(text), colour_of(risk)), end="", soft_wrap=True)

    def end_answer(self) -> None:
        """What follows begins on a line of its own."""
        self._answer.print()

    def judgement(self, guard: Mapping[str, Any]) -> None:
        """The guard object in words."""
        risk, status, action = guard["risk"], guard["status"], guard["action"]
        style = colour_of(risk) if risk is not None else "" if status == "disabled" else "bold red"
        self._note("risk", "none" if risk is None else f"{risk:.3f}, threshold {guard['threshold']:.3f}", style)
        self._note("action", ACTION_WORDS.get(action, action), "" if action == "none" else "bold red")
        self._note("status", STATUS_WORDS.get(status, status), style if risk is None else "")
        if guard["out_of_domain"]:
            self._note(
                "caution", "unlike anything that the probe was calibrated on: do not rely on this risk", "yellow"
            )
        for span in guard["spans"] or []:
            shown = "(withheld)" if span["text"] is None else f'"{one_line(span["text"])}"'
            known = "not scored" if span["risk"] is None else f"risk {span['risk']:.3f}"
            self._note("span", f"{shown} {known}", colour_of(span["risk"]))
        if both := guard["suppressed"]:
            words = f"{_number(both['baseline_risk'])} at alpha 1, {_number(both['risk'])} at {both['alpha']:g}"
            self._note("both", f"{words}; kept: {both['kept']}")
        probe = guard["probe"]
        self._note("probe", one_line(f"{probe['name']}@{probe['version']}"))
        for share in guard["explain"] or []:
            words = f"layer {share['layer']} neuron {share['neuron']}: {share['contribution']:+.4f} to the logit"
            self._note("neuron", f"{words} (weight {share['weight']:+.3f})")

    def _note(self, name: str, words: str, style: str = "") -> None:
        self._notes.print(Text.assemble((f"{name:<8}", "dim"), (words, style)), soft_wrap=True)


def colour_of(risk: float | None) -> str:
    """From green over amber to red; grey where there is no risk."""
    if risk is None:
        return "grey50"
    low, high, share = (_CALM, _HALF, 2 * risk) if risk < 0.5 else (_HALF, _ALARMED, 2 * risk - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return f"rgb({red},{green},{blue})"


def _number(risk: float | None) -> str:
    return "not scored" if risk is None else f"risk {risk:.3f}"


def _console(file: Any, *, is_plain: bool) -> Console:
    """Without any escape sequence where the user, NO_COLOR or what stands behind the file wants none."""
    is_plain = is_plain or bool(os.environ.get("NO_COLOR")) or not file.isatty()
    return Console(file=file, color_system=None if is_plain else "auto", highlight=False, markup=False, emoji=False)
