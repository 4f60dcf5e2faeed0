"""Checks of the settings and of the files and folders that they name. Nothing is left in a folder that was tried."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.cli.finding import Finding
from service.feedback_store import FeedbackUrlError, database_url
from service.key_ring import KeysFileError, read_keys
from service.settings import ENV_FILE, Settings, SettingsError, read_settings


def check_settings() -> tuple[Settings | None, Finding]:
    """The settings, where they are valid."""
    try:
        settings = read_settings()
    except SettingsError as error:
        return None, Finding("settings", "fail", str(error), "`hguard serve --help` lists every setting")
    file = f", {ENV_FILE} in this folder" if Path(ENV_FILE).exists() else ""
    return settings, Finding("settings", "ok", f"valid (environment{file})")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Keys, labels, audit log and probes."""
    if settings.api_keys_file is None:
        yield Finding("keys", "ok", "none: open to this machine")
        if settings.insecure and not settings.is_loopback:
            fix = "set HGUARD_API_KEYS_FILE, or let a proxy guard it"
            yield Finding("keys", "warn", f"HGUARD_INSECURE=1: whoever reaches {settings.host} may use the model", fix)
    else:
        yield _check_keys(settings.api_keys_file)
    yield _check_labels(settings)
    if settings.audit_log is not None:
        yield _check_folder("audit log", settings.audit_log.parent, "HGUARD_AUDIT_LOG", may_be_made=False)
    if settings.probes_dir is not None:
        found = _check_folder("probes dir", settings.probes_dir, "HGUARD_PROBES_DIR", may_be_made=True)
        if found.level == "ok" and not settings.probes_dir.exists():
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
    return _check_folder("labels", Path(url.database or "").parent, "HGUARD_FEEDBACK_URL", may_be_made=setting is None)


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
