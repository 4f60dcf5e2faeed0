"""A file of API keys, one for each scope, and the headers that show them."""

import hashlib
import json
from pathlib import Path

SCOPES = ("infer", "admin", "metrics")


def write_keys(folder: Path, limits: str = "", **more: str | tuple[str, ...]) -> Path:
    """A key for each scope, named after it, and more; their text is `key of NAME`.

    `limits` is the inside of the inference key's table, `more` has the scopes of each further key.
    """
    path, entries = folder / "keys.toml", []
    for name, scopes in {**{scope: scope for scope in SCOPES}, **more}.items():
        listed = json.dumps([scopes] if isinstance(scopes, str) else scopes)
        own = f"limits = {{{limits}}}\n" if name == "infer" else ""
        entries.append(f'[[keys]]\nname = "{name}"\nsha256 = "{digest(name)}"\nscopes = {listed}\n{own}')
    path.write_text("\n".join(entries))
    return path


def digest(name: str) -> str:
    return hashlib.sha256(f"key of {name}".encode()).hexdigest()


def show(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key of {name}"}
