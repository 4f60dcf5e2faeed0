"""A file of API keys, one for each scope, and the headers that show them."""

import hashlib
from pathlib import Path

SCOPES = ("infer", "admin", "metrics")


def write_keys(folder: Path, limits: str = "", **more: str) -> Path:
    """Keys named after their scope, the key `key of NAME`; `limits` is the inside of the inference key's table."""
    path, entries = folder / "keys.toml", []
    for name, scope in {**{scope: scope for scope in SCOPES}, **more}.items():
        own = f"limits = {{{limits}}}\n" if name == "infer" else ""
        entries.append(f'[[keys]]\nname = "{name}"\nsha256 = "{digest(name)}"\nscopes = ["{scope}"]\n{own}')
    path.write_text("\n".join(entries))
    return path


def digest(name: str) -> str:
    return hashlib.sha256(f"key of {name}".encode()).hexdigest()


def show(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key of {name}"}
