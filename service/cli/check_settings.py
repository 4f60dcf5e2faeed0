"""Checks of the settings and of the files and folders that they name. Nothing is left in a folder that was tried."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.admission.key_ring import KeysFileError, read_keys
from service.cli.finding import Finding
from service.feedback.store import FeedbackUrlError, database_url
from service.settings import ENV_FILE, Settings, SettingsError, read_settings
from service.sinks.tracing import TracingError, open_tracing

_SQLITE = b"SQLite format 3\0"
"""How such a file begins; an empty one is a database without tables."""


def check_settings() -> tuple[Settings | None, Finding]:
    """The settings, where they are valid."""
    try:
        settings = read_settings()
    except SettingsError as error:
        return None, Finding("settings", "fail", str(error), "`hguard serve --help` lists every setting")
    file = f", {ENV_FILE} in this folder" if Path(ENV_FILE).exists() else ""
    return settings, Finding("settings", "ok", f"valid (environment{file})")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Keys, labels, audit log, tracing and probes."""
    if settings.api_keys_file is None:
        yield Finding("keys", "ok", "none: open to this machine")
        if settings.insecure and not settings.is_loopback:
            fix = "set HGUARD_API_KEYS_FILE, or let a proxy guard it"
            yield Finding("keys", "warn", f"HGUARD_INSECURE=1: whoever reaches {settings.host} may use the model", fix)
    else:
        yield _check_keys(settings.api_keys_file)
    yield _check_labels(settings)
    if settings.audit_log is not None:
        yield _check_file("audit log", settings.audit_log, "HGUARD_AUDIT_LOG")
    if settings.otel:
        yield _check_tracing()
    if settings.probes_dir is not None:
        found = _check_folder("probes dir", settings.probes_dir, "HGUARD_PROBES_DIR", may_be_made=True)
        if found.level == "fail":  # the service serves without it
            words = f"{found.found}; a restart forgets which probes were switched"
            found = Finding(found.check, "warn", words, found.fix)
        elif not settings.probes_dir.exists():
            fix = "the first switch of a probe makes it; if it should have probes, correct HGUARD_PROBES_DIR"
            found = Finding("probes dir", "warn", f"{settings.probes_dir} is not there", fix)
        yield found


def _check_keys(path: Path) -> Finding:
    try:
        keys = read_keys(path)
    except KeysFileError as error:
        return Finding("keys", "fail", str(error), "`hguard keys NAME >> FILE` writes an entry; see docs/api.md, Keys")
    if not keys:
        return Finding("keys", "warn", f"{path} has no key: nobody gets in", f"hguard keys NAME >> {path}")
    return Finding("keys", "ok", f"{len(keys)} in {path}")


def _check_labels(settings: Settings) -> Finding:
    setting = settings.feedback_url
    try:
        url = database_url(None if setting is None else setting.get_secret_value())
    except FeedbackUrlError as error:
        return Finding("labels", "fail", str(error), "see docs/api.md, POST /feedback")
    if url is None:
        return Finding("labels", "ok", "off (HGUARD_FEEDBACK_URL=off)")
    if url.drivername != "sqlite":
        return Finding(
            "labels", "ok", f"kept in {url.render_as_string(hide_password=True)}; not connected to from here"
        )
    return _check_sqlite(Path(url.database or ""), may_be_made=setting is None)


def _check_sqlite(path: Path, *, may_be_made: bool) -> Finding:
    found = _check_file("labels", path, "HGUARD_FEEDBACK_URL", may_be_made=may_be_made)
    if found.level == "ok" and path.exists():
        try:
            with path.open("rb") as file:
                head = file.read(len(_SQLITE))
        except OSError as error:
            fix = "let this user read it, or name another with HGUARD_FEEDBACK_URL"
            return Finding("labels", "fail", f"{path} cannot be read: {error.strerror}", fix)
        if head not in (b"", _SQLITE):
            fix = "move it away, or name another with HGUARD_FEEDBACK_URL"
            return Finding("labels", "fail", f"{path} is no SQLite database", fix)
    return found


def _check_tracing() -> Finding:
    try:
        open_tracing().close()
    except TracingError as error:
        return Finding("tracing", "fail", str(error), "or HGUARD_OTEL=0: no spans")
    return Finding("tracing", "ok", "OpenTelemetry is here; its collector is not connected to from here")


def _check_file(check: str, path: Path, setting: str, *, may_be_made: bool = False) -> Finding:
    """A file that the service appends to, where it is; and its folder, in which it makes others beside it."""
    if path.exists():
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))  # nothing is made, nothing waited for
        except OSError as error:
            fix = f"let this user write it, or name another with {setting}"
            return Finding(check, "fail", f"{path} cannot be written: {error.strerror}", fix)
    if path.exists() and not path.is_file():  # a device or a pipe: nothing is made beside it
        return Finding(check, "ok", f"{path} can be written")
    return _check_folder(check, path.parent, setting, may_be_made=may_be_made)


def _check_folder(check: str, folder: Path, setting: str, *, may_be_made: bool) -> Finding:
    """A folder that the service writes into; what may be made, it makes itself."""
    place = folder
    while may_be_made and not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = f"give this user a folder to write in, or name another with {setting}"
        return Finding(check, "fail", f"{folder} cannot be written: {error.strerror}", fix)
    return Finding(check, "ok", f"{folder} can be written")
