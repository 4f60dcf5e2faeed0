"""Command-line tools that Python packages of the extra `dev` bring."""

import shutil
import sys
from pathlib import Path


def find_tool(name: str) -> str:
    """Beside this Python, where packages install it, else on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: make setup installs it"
    return found
