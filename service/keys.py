"""`python -m service.keys NAME --scopes infer`: make an API key. What is kept of it is its SHA-256."""

import argparse
import hashlib
import json
import re
import secrets
import sys
from collections.abc import Sequence
from typing import get_args

from service.admission.auth import KeyScope
from service.admission.key_ring import KEY_NAME


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the key on standard error and its entry on standard output; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m service.keys",
        description="Make an API key. Its entry for the file of HGUARD_API_KEYS_FILE goes to standard output "
        "(append it with >>), the key itself to standard error: it is shown this once and kept nowhere.",
    )
    parser.add_argument("name", help="whose key it is: letters, digits, dots and dashes")
    parser.add_argument("--scopes", nargs="+", choices=get_args(KeyScope), default=["infer"], help="default: infer")
    options = parser.parse_args(arguments)
    if re.fullmatch(KEY_NAME, options.name) is None:
        parser.error("a name is up to 64 letters, digits, dots and dashes")
    key = f"hguard-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    sys.stderr.write(f"{key}\n")
    sys.stdout.write(
        f'\n[[keys]]\nname = "{options.name}"\nsha256 = "{digest}"\nscopes = {json.dumps(options.scopes)}\n'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
