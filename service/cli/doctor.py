"""`hguard doctor`: look at everything that a start needs, in the order in which it is needed, and say what to mend."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from service.cli.check_machine import check_accelerator, check_imports, check_packages, check_port, check_python
from service.cli.finding import Finding
from service.cli.words import EXIT_ERROR, one_line

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_EPILOG = """\
Reads the service's settings. It downloads nothing and changes nothing; the golden trace loads the model beside whatever
runs already, --quick leaves it out. Exit code 1 where a line says fail, 2 where the command line is wrong, else 0."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="hguard doctor",
        description="Check Python, packages, settings, files, the port, the accelerator, the model, the probes, and "
        "the golden trace of the probe on the real engine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="no golden trace: the model is not loaded")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of check, level, found, fix")
    options = parser.parse_args(arguments)
    findings = []
    for finding in examine(is_quick=options.quick):
        findings.append(finding)
        if not options.json:
            _tell(finding)
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    return EXIT_ERROR if any(finding.level == "fail" for finding in findings) else 0


def examine(*, is_quick: bool) -> Iterator[Finding]:
    """Every finding as it comes; those that need valid settings only where there are."""
    yield check_python()
    yield from check_packages()
    if (broken := check_imports()) is not None:
        yield broken
        return

    # Only now: they import torch, which takes seconds and may be what is broken.
    from service.cli.check_model import check_golden_trace, check_model, check_probes
    from service.cli.check_settings import check_files, check_settings

    settings, finding = check_settings()
    yield finding
    if settings is None:
        return
    yield from check_files(settings)
    yield check_port(settings)
    yield from check_accelerator(settings)
    folder, finding = check_model(settings)
    yield finding
    probes = list(check_probes(settings, folder))
    yield from probes
    if is_quick:
        return
    if folder is None and settings.engine != "fake":
        yield Finding(
            "golden trace", "warn", "not run: the model is not here yet", "run this again after a first start"
        )
    elif not any(probe.level == "fail" for probe in probes):
        yield check_golden_trace(settings)


def _tell(finding: Finding) -> None:
    is_plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    console = Console(color_system=None if is_plain else "auto", highlight=False, markup=False, emoji=False)
    fix = f"\n{'':<19}-> {one_line(finding.fix)}" if finding.fix else ""
    words = f" {finding.check:<13}{one_line(finding.found)}{fix}"
    console.print(Text.assemble((f"{finding.level:<5}", _STYLES[finding.level]), words), soft_wrap=True)
