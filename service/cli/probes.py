"""`hguard probes`: what lies in the folders of probes, or serves on a server, and the operator's switches.

Listing what is on disk reads every artifact with all its hashes and loads neither torch nor a model: whether a probe
fits the model is said by the server, and by `hguard doctor`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from probes.artifact import ArtifactError
from probes.registry import list_artifacts, load_listed
from service.cli.client import add_connection, check, connect, reading
from service.cli.words import CliError, one_line, safe
from service.probe_roles.entry import describe_probe
from service.schemas.probes import ProbeEntry, SwitchResponse
from service.schemas.role import Role
from service.settings import SettingsError, read_settings

_EPILOG = """\
  list                   on disk, or with --url what a server has, with roles (this is what no action means)
  show NAME[@VERSION]    one probe; on disk with its card
  activate NAME[@VERSION] [--mode shadow | --mode canary --percent P]
  rollback NAME [--mode shadow | canary]
  reload                 look at the server's folders again
The last three ask a server (--url, HGUARD_URL, or this machine) and need a key with the scope admin."""
_SWITCHES = ("activate", "rollback", "reload")
_COLUMNS = ("name", "version", "state", "model", "AUROC", "threshold", "sha256", "reason")


def main(arguments: Sequence[str] | None = None) -> int:
    """List, show or switch.

    Raises:
        CliError: The server or the folder does not do it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.name is None) != (options.action in ("list", "reload")):
        parser.error(f"{options.action} takes {'no name' if options.name else 'a NAME'}")
    if options.action in _SWITCHES:
        return _switch(options)
    if options.url is None:
        _tell_local(options)
    else:
        with connect(options) as client:
            answer = client.get("/probes")
            check(answer)
        _tell(options, _entries(answer))
    return 0


def local_entries(probes_dir: Path | None) -> list[tuple[Path, ProbeEntry]]:
    """Every probe in the folders, the operator's first; a damaged one with the reason."""
    return [(folder, _read(folder)) for folder in list_artifacts(probes_dir)]


def _read(folder: Path) -> ProbeEntry:
    try:
        return describe_probe(load_listed(folder), "available")
    except ArtifactError as error:
        return ProbeEntry(name=folder.parent.name, version=folder.name, state="refused", reason=str(error))


def _entries(answer: httpx.Response) -> list[ProbeEntry]:
    with reading(answer):
        return [ProbeEntry.model_validate(entry) for entry in answer.json()["probes"]]


def _tell_local(options: argparse.Namespace) -> None:
    try:
        probes_dir = options.probes_dir or read_settings().probes_dir
    except SettingsError as error:
        raise CliError(str(error)) from None
    if probes_dir is not None and not probes_dir.is_dir():
        raise CliError(f"{probes_dir} is no folder: look at --probes-dir and HGUARD_PROBES_DIR")
    found = local_entries(probes_dir)
    _tell(options, [entry for _, entry in found])
    if options.action == "show" and not options.json:
        name, _, version = options.name.partition("@")
        folder = next(at for at, entry in found if entry.name == name and version in ("", entry.version))
        sys.stdout.write(f"folder     {folder}\n")
        card = folder / "README.md"
        if card.exists():
            sys.stdout.write("\n" + safe(card.read_text(encoding="utf-8", errors="replace")))


def _tell(options: argparse.Namespace, entries: Sequence[ProbeEntry]) -> None:
    if options.action == "show":
        name, _, version = options.name.partition("@")
        entries = [one for one in entries if one.name == name and version in ("", one.version)][:1]
        if not entries:
            raise CliError(f"no probe {one_line(options.name)}: `hguard probes` lists those that there are")
    if options.json:
        sys.stdout.write(json.dumps([entry.model_dump(exclude_none=True) for entry in entries], indent=1) + "\n")
    elif options.action == "show":
        _describe(entries[0])
    else:
        _tabulate(entries)


def _tabulate(entries: Sequence[ProbeEntry]) -> None:
    rows = [_row(entry) for entry in entries]
    if not sys.stdout.isatty():  # for cut and awk: a line a probe, whatever the width
        for row in (_COLUMNS, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, "red" if row[2] == "refused" else "") for cell in row))
    Console(highlight=False).print(table)


def _row(entry: ProbeEntry) -> tuple[str, ...]:
    percent = "" if entry.percent is None else f" {entry.percent:g}%"
    cells = (
        entry.name,
        entry.version,
        entry.state + percent,
        str((entry.model or {}).get("name") or "-"),
        _auroc(entry),
        "-" if entry.threshold is None else f"{entry.threshold:.3f}",
        "-" if entry.sha256 is None else entry.sha256[:12],
        entry.reason or "",
    )
    return tuple(map(one_line, cells))


def _describe(entry: ProbeEntry) -> None:
    for name, cell in zip(_COLUMNS, _row(entry), strict=True):
        if cell:
            sys.stdout.write(f"{name:<11}{cell}\n")
    if entry.risk_parts is not None:
        sys.stdout.write(f"{'risk of':<11}{', '.join(entry.risk_parts)}\n")
        sys.stdout.write(f"{'neurons':<11}{entry.selected_neurons} selected, {entry.h_neurons} of them H-neurons\n")


def _auroc(entry: ProbeEntry) -> str:
    if entry.auroc is None:
        return "-"
    low, high = entry.auroc_interval or (float("nan"), float("nan"))
    return f"{entry.auroc:.3f} [{low:.3f}, {high:.3f}]"


def _switch(options: argparse.Namespace) -> int:
    name, _, version = (options.name or "").partition("@")
    body: dict[str, Any] = {"mode": options.mode}
    if options.action == "activate":
        body |= {"version": version or None, "percent": options.percent}
    path = "/probes/reload" if options.action == "reload" else f"/probes/{name}/{options.action}"
    with connect(options, seconds=600) as client:  # a golden trace is scored beside the running requests
        answer = client.post(httpx.URL(path), json=None if options.action == "reload" else body)
        check(answer)
    if options.action == "reload":
        _tell(options, _entries(answer))
        return 0
    with reading(answer):
        done = SwitchResponse.model_validate(answer.json())
    if options.json:
        sys.stdout.write(json.dumps(answer.json()) + "\n")
        return 0
    ends = options.action == "rollback" and options.mode != "active"
    verb = "no longer" if ends else "now"
    sys.stdout.write(one_line(f"{done.probe.name}@{done.probe.version} is {verb} {done.mode}") + "\n")
    if not done.is_kept:
        sys.stderr.write("a restart forgets this: HGUARD_PROBES_DIR is not set there, or cannot be written\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hguard probes",
        description="List probes, on disk or of a server, and switch them.",
        epilog="actions:\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("action", nargs="?", default="list", choices=("list", "show", *_SWITCHES), metavar="ACTION", help="see below")
    add("name", nargs="?", metavar="NAME", help="of the probe, with @VERSION or the newest")
    add_connection(parser, "address of a server; list and show then tell of its probes")
    add("--probes-dir", type=Path, help="folder with probes of your own (HGUARD_PROBES_DIR)")
    add("--mode", choices=get_args(Role), default="active", help="role that is given or undone (%(default)s)")
    add("--percent", type=float, help="share of the requests that a canary answers")
    add("--json", action="store_true", help="print JSON")
    return parser
