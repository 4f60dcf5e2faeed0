"""RotatingFile: whole lines, appended to a file that only its owner can read, in a bounded number of files."""

import os
import stat
from pathlib import Path

OWNER_ONLY = 0o600


class RotatingFile:
    """Not for several threads or processes at once."""

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        """Open for appending.

        Args:
            path: Of the newest file; older ones are `path.1`, `path.2`, ...
            max_bytes: A line that would make the file longer begins another one.
            files: Files that are kept, the newest included.

        Raises:
            OSError: It cannot be opened.
        """
        self.path, self.max_bytes, self.files = path, max_bytes, files
        self._open()

    def write(self, line: bytes) -> None:
        """Append a line: the whole of it or nothing.

        Raises:
            OSError: It could not be written; the next one may be.
        """
        if self._is_regular and self._size > 0 and self._size + len(line) > self.max_bytes:
            self._rotate()
        if os.write(self._descriptor, line) < len(line):  # a disk that is full takes a part first
            os.ftruncate(self._descriptor, self._size)
            raise OSError("the disk is full")
        self._size += len(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
        found = os.fstat(descriptor)
        self._is_regular = stat.S_ISREG(found.st_mode)
        if self._is_regular:
            os.fchmod(descriptor, OWNER_ONLY)
        self._descriptor, self._size = descriptor, found.st_size

    def _rotate(self) -> None:
        if self.files == 1:
            os.ftruncate(self._descriptor, 0)
            self._size = 0
            return
        if self.path.exists():  # else the last attempt came this far and could not open a new one
            for number in range(self.files - 1, 0, -1):
                older, newer = self._numbered(number), self._numbered(number - 1)
                if newer.exists():
                    newer.replace(older)
        before = self._descriptor
        self._open()
        os.close(before)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path
