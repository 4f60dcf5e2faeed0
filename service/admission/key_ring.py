"""KeyRing: the API keys of the operator's file, as SHA-256, read again when the file changes.

A file that cannot be read keeps the keys that were there before: it is logged and counted, and closes nobody out.
"""

import hashlib
import hmac
import logging
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service.admission.auth import Caller, KeyScope, Limits
from service.observe.metrics import Metrics
from service.schemas.strict import Strict

LOOK_SECONDS = 1.0
"""The file is looked at no more often than this."""
ALL_SCOPES: frozenset[KeyScope] = frozenset(get_args(KeyScope))
ANYONE = Caller("anyone", frozenset({"infer", "metrics"}))
"""Every caller where there is no file of keys."""
ADMIN_NAME = "HGUARD_ADMIN_KEY_SHA256"
"""Of the key in that setting; no name in a file can be the same."""

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$"
KeyName = Annotated[str, StringConstraints(pattern=KEY_NAME)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]

logger = logging.getLogger("hguard")


class KeysFileError(ValueError):
    """The file of keys cannot be used; one line says why, and repeats nothing of what is in it."""


class KeyEntry(Strict):
    """One key."""

    name: KeyName
    sha256: Sha256
    scopes: list[KeyScope] = Field(min_length=1)
    limits: Limits = Limits()


class KeysFile(Strict):
    """The file; an empty list lets nobody in."""

    keys: list[KeyEntry]

    @model_validator(mode="after")
    def _refuse_doubles(self) -> "KeysFile":
        for values in ([key.name for key in self.keys], [key.sha256.lower() for key in self.keys]):
            if len(set(values)) < len(values):
                raise PydanticCustomError("double", "two keys have the same name or the same sha256")
        return self


class KeyRing:
    """Finds the caller by the key that it shows."""

    def __init__(self, path: Path | None, admin_key_sha256: str | None, metrics: Metrics) -> None:
        """Read the file.

        Args:
            path: The file; None lets everybody in, except to what needs the scope `admin`.
            admin_key_sha256: SHA-256, in hex, of a key beside the file's, with the scope `admin`.
            metrics: Where to count.

        Raises:
            KeysFileError: The file cannot be used.
        """
        self.path, self._metrics = path, metrics
        self._admin: list[tuple[bytes, Caller]] = []
        if admin_key_sha256 is not None:
            scopes: frozenset[KeyScope] = ALL_SCOPES if path is None else frozenset({"admin"})
            self._admin = [(bytes.fromhex(admin_key_sha256), Caller(ADMIN_NAME, scopes))]
        self._version = _version(path)
        self._keys = read_keys(path) if path is not None else []
        self._look_at = time.monotonic() + LOOK_SECONDS
        if path is not None:
            logger.info("%d API keys from %s", len(self._keys), path)

    @property
    def has_admin(self) -> bool:
        """Whether any key opens what needs the scope `admin`."""
        return any("admin" in caller.scopes for _, caller in self._all())

    def find(self, shown: bytes | None) -> Caller | None:
        """The caller that shows a key.

        Args:
            shown: The key as it was sent, or None.

        Returns:
            None where a key is needed and this is not one.
        """
        self._refresh()
        if shown is None:
            return ANYONE if self.path is None else None
        digest, found = hashlib.sha256(shown).digest(), None
        for known, caller in self._all():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        return ANYONE if found is None and self.path is None else found

    def _all(self) -> Iterator[tuple[bytes, Caller]]:
        yield from self._admin
        yield from self._keys

    def _refresh(self) -> None:
        if self.path is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        version = _version(self.path)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = read_keys(self.path)
        except KeysFileError as error:
            self._metrics.key_loads.labels("failed").inc()
            self._metrics.keys_ok.set(0)
            logger.error("the API keys from before are used on: %s", error)
        else:
            self._metrics.key_loads.labels("ok").inc()
            self._metrics.keys_ok.set(1)
            logger.info("%d API keys from %s", len(self._keys), self.path)


def read_keys(path: Path) -> list[tuple[bytes, Caller]]:
    """(SHA-256, caller) of each key of a file.

    Raises:
        KeysFileError: It cannot be read, or is wrong.
    """
    try:
        file = KeysFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise KeysFileError(f"HGUARD_API_KEYS_FILE={path}: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise KeysFileError(f"HGUARD_API_KEYS_FILE={path}: {where}: {problem['msg']}") from None
    except (ValueError, RecursionError):  # tomllib's messages quote the file
        raise KeysFileError(f"HGUARD_API_KEYS_FILE={path}: is not TOML") from None
    return [(bytes.fromhex(key.sha256), Caller(key.name, frozenset(key.scopes), key.limits)) for key in file.keys]


def _version(path: Path | None) -> tuple[int, int, int] | None:
    """Changes when the file does; None where there is none."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
