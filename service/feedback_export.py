"""`hguard-feedback export`: labelled rows as JSON lines, for `offline/recalibrate.py`; uses the service's settings."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy.exc import SQLAlchemyError

from service.feedback.store import FeedbackStore, FeedbackUrlError, database_url, one_line
from service.settings import SettingsError, read_settings

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; what a user can mend is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="hguard-feedback", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser("export", help="write labelled rows as JSON lines")
    export.add_argument("--out", type=Path, help="file to write, for its owner alone; must not exist (standard output)")
    chosen = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            store = _open_store()
            stack.callback(store.close)
            rows = store.export()
            first = list(islice(rows, 1))
            # A database that is down has said so by now, and leaves no empty file.
            file = sys.stdout if chosen.out is None else stack.enter_context(_create(chosen.out))
            n = _write(file, chain(first, rows))
    except (SettingsError, FeedbackUrlError) as error:
        sys.stderr.write(f"hguard-feedback: {error}\n")
        return EXIT_USAGE
    except (SQLAlchemyError, OSError) as error:
        sys.stderr.write(f"hguard-feedback: {one_line(error)}\n")
        return EXIT_USAGE
    sys.stderr.write(f"{n} labelled rows\n")
    return 0


def as_line(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the store as it is exported."""
    start, end = row.pop("span_start"), row.pop("span_end")
    return {**row, "span": None if start is None else {"start": start, "end": end}}


def _open_store() -> FeedbackStore:
    setting = read_settings().feedback_url
    url = database_url(None if setting is None else setting.get_secret_value())
    if url is None:
        raise SettingsError("HGUARD_FEEDBACK_URL=off: there are no labels")
    return FeedbackStore(url)


def _create(path: Path) -> TextIO:
    path.touch(mode=0o600, exist_ok=False)
    return path.open("w", encoding="utf-8")


def _write(file: TextIO, rows: Iterable[dict[str, Any]]) -> int:
    n = 0
    for row in rows:
        file.write(json.dumps(as_line(row), ensure_ascii=False, allow_nan=False) + "\n")
        n += 1
    return n


if __name__ == "__main__":
    sys.exit(main())
