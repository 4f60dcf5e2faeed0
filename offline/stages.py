"""How a stage keeps its work: rows appended as they are finished, a manifest written last.

    <out>/<stage>.jsonl            rows; a torn last line of a killed run is cut off on resume
    <out>/<stage>.settings.json    what the rows are made with, written first
    <out>/<stage>.manifest.json    settings, counts; its presence means that the stage is complete

A rerun with the same settings skips a complete stage and continues an incomplete one; other settings are an error that
names the way out, so finished rows are never lost or mixed. Two runs at once in one folder are not looked for.
"""

import dataclasses
import hashlib
import json
import logging
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

R = TypeVar("R")

log = logging.getLogger("hguard.train")


class StageMismatchError(RuntimeError):
    """The folder holds rows that were made with other settings."""


def fingerprint(value: Any) -> str:
    """Short SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str, allow_nan=False).encode()).hexdigest()[:16]


class Stage(Generic[R]):
    """One stage's rows on disk. Use as a context manager while appending."""

    def __init__(self, out: Path, name: str, row_type: type[R], settings: dict[str, Any]) -> None:
        """Open or continue a stage.

        Args:
            out: The run's folder; made if missing.
            name: File stem.
            row_type: The frozen dataclass of a row.
            settings: Everything that decides the rows, upstream fingerprints included.

        Raises:
            StageMismatchError: The folder was made with other settings, or with ones that nobody knows any more.
        """
        self.name, self._row_type = name, row_type
        self.settings = json.loads(json.dumps(settings, default=str, allow_nan=False))
        self.path, self._manifest = out / f"{name}.jsonl", out / f"{name}.manifest.json"
        self._begun = out / f"{name}.settings.json"
        out.mkdir(parents=True, exist_ok=True)
        if self._begun.exists():
            self._compare(json.loads(self._begun.read_text()))
        else:
            self._forget_leftovers()
            write_json(self._begun, self.settings)
        self._drop_torn_line()
        self._file: typing.TextIO | None = None
        if self.is_complete:
            log.info("%s: complete", name)

    @property
    def fingerprint(self) -> str:
        """Names the settings; goes into the settings of the stages that read this one."""
        return fingerprint(self.settings)

    @property
    def is_complete(self) -> bool:
        """Whether the manifest has been written, and its rows are still there."""
        return self._manifest.exists() and self.path.exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """What `finish` wrote."""
        loaded: dict[str, Any] = json.loads(self._manifest.read_text())
        return loaded

    def rows(self) -> Iterator[R]:
        """All rows so far, in the order in which they were finished."""
        yield from read_rows(self.path, self._row_type)

    def append(self, rows: list[R]) -> None:
        """Write rows and flush them: after this they survive a kill.

        Raises:
            ValueError: A row holds nan or infinity, which JSON has not; none of these rows is written then.
        """
        assert self._file is not None, "append inside `with stage:`"
        self._file.write("".join(self._encode(row) + "\n" for row in rows))
        self._file.flush()

    def write(self, rows: list[R], /, **counts: Any) -> None:
        """All rows of a stage that is made at one go; those that a killed run left are replaced, not added to."""
        self.path.unlink(missing_ok=True)
        with self:
            self.append(rows)
        self.finish(**counts)

    def finish(self, **counts: Any) -> None:
        """Mark the stage complete."""
        self.path.touch()
        write_json(self._manifest, {"settings": self.settings, "counts": counts})
        log.info("%s: %s", self.name, json.dumps(counts))

    def __enter__(self) -> Self:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def _compare(self, begun: dict[str, Any]) -> None:
        changed = sorted(key for key in begun.keys() | self.settings.keys() if begun.get(key) != self.settings.get(key))
        if changed:
            was = {key: begun.get(key) for key in changed}
            now = {key: self.settings.get(key) for key in changed}
            raise StageMismatchError(
                f"stage {self.name} in {self.path.parent} was made with {was}, now {now}: use another --out, "
                f"or delete {self.name}.* there to make it anew"
            )

    def _forget_leftovers(self) -> None:
        """Without settings there is no stage: an old manifest must not call the next one complete."""
        if self.path.exists() and self.path.stat().st_size:
            raise StageMismatchError(
                f"{self.path} holds rows, but {self._begun.name}, which says what they were made with, is gone: "
                f"use another --out, or delete {self.name}.* there to make the stage anew"
            )
        self._manifest.unlink(missing_ok=True)

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("rb+") as file:
                file.truncate(whole)

    def _encode(self, row: R) -> str:
        try:
            return json.dumps(dataclasses.asdict(typing.cast(Any, row)), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"stage {self.name}: a row is not strict JSON ({error}): {str(row)[:200]}") from error


def read_rows(path: Path, row_type: type[R]) -> Iterator[R]:
    """The rows of a stage's file, if there is one; a line that is still being written is none."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    fields = json.loads(line).items()
                    yield row_type(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields})


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON so that the file is either the old or the new one, whole; nan is a ValueError."""
    partial = path.with_suffix(".partial")
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
