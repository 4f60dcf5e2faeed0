"""Make the secrets of compose.yaml that are not there yet, or one more API key.

    docker compose run --rm secrets                              # before the first start; again: changes nothing
    docker compose run --rm secrets NAME --scopes infer          # another API key, valid within a second

Runs in hguard's image as root: each file is readable by the user of the one container that mounts it, and by nobody
else. What a person needs, an API key and Grafana's password, is shown once, when it is made.
"""

import argparse
import contextlib
import io
import os
import secrets
import sys
import tempfile
from pathlib import Path

from service import keys
from service.admission.key_ring import KeysFileError, read_keys

HGUARD, PROMETHEUS, GRAFANA = 10001, 65534, 472
"""User ids in the images."""
API_KEYS, METRICS_KEY, HF_TOKEN = "hguard_api_keys", "hguard_metrics_key", "hf_token"
PASSWORD = "grafana_admin_password"  # noqa: S105


def main() -> None:
    """Make what is missing, or one key; or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/secrets"))
    parser.add_argument("name", nargs="?", help="make one more API key with this name")
    parser.add_argument("--scopes", nargs="+", default=["infer"])
    options = parser.parse_args()
    if options.name is None:
        make_missing(options.folder)
    else:
        add_key(options.folder / API_KEYS, options.name, options.scopes)


def make_missing(folder: Path) -> None:
    """The four files, those of API keys together: the metrics key is one of them."""
    has_keys, has_metrics_key = ((folder / name).exists() for name in (API_KEYS, METRICS_KEY))
    if has_keys != has_metrics_key:
        there, gone = (API_KEYS, METRICS_KEY) if has_keys else (METRICS_KEY, API_KEYS)
        sys.exit(f"{there} is there and {gone} is not, but they belong together: bring it back, or remove {there}, too")
    if not has_keys:
        metrics_key, metrics_entry = new_key("prometheus", ["metrics"])
        client_key, client_entry = new_key("client", ["infer"])
        write(folder / METRICS_KEY, metrics_key, PROMETHEUS)
        write(folder / API_KEYS, metrics_entry + client_entry, HGUARD)
        sys.stderr.write(f"API key of `client`, scope infer, shown this once: {client_key}\n")
    if not (folder / PASSWORD).exists():
        password = secrets.token_urlsafe(18)
        write(folder / PASSWORD, password, GRAFANA)
        sys.stderr.write(f"Grafana's password of `admin`, shown this once: {password}\n")
    if not (folder / HF_TOKEN).exists():
        write(folder / HF_TOKEN, "", HGUARD)


def add_key(file: Path, name: str, scopes: list[str]) -> None:
    """Append a key: a file that was replaced would not be the one that the container has mounted."""
    key, entry = new_key(name, scopes)
    try:
        before = file.read_text(encoding="utf-8")
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as trial:
            trial.write(before + entry)
            trial.flush()
            read_keys(Path(trial.name))
    except FileNotFoundError:
        sys.exit("there are no API keys yet: run this without a name first")
    except KeysFileError as error:
        sys.exit(f"the key was not added: {str(error).partition(': ')[2]}")
    with file.open("a", encoding="utf-8") as keys_file:
        keys_file.write(entry)
    sys.stderr.write(f"API key of `{name}`, shown this once: {key}\n")


def new_key(name: str, scopes: list[str]) -> tuple[str, str]:
    """(the key, its entry for the file)."""
    entry, key = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(entry), contextlib.redirect_stderr(key):
            keys.main([name, "--scopes", *scopes])
    except SystemExit:  # a name or a scope that cannot be; what it wrote says so
        sys.exit(key.getvalue())
    return key.getvalue().strip(), entry.getvalue()


def write(file: Path, text: str, owner: int) -> None:
    """A file that is whole or absent, and its owner's alone."""
    scratch = file.with_name(f".{file.name}")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)
    os.chown(scratch, owner, owner)
    scratch.rename(file)


if __name__ == "__main__":
    main()
