"""`hguard COMMAND`: finds the command's module and calls it. Imports no other command, so that none waits for torch."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from service.cli.words import EXIT_ERROR, EXIT_INTERRUPTED, CliError
from service.version import VERSION

COMMANDS = {
    "ask": ("service.cli.ask", "ask a running server and see the answer with its risk"),
    "probes": ("service.cli.probes", "list probes on disk or of a server, and switch them"),
    "doctor": ("service.cli.doctor", "check this machine and these settings, and say what to mend"),
    "serve": ("service.__main__", "serve; the same as python -m service"),
    "keys": ("service.keys", "make an API key"),
    "feedback": ("service.feedback_export", "export labelled responses"),
}
"""Command -> module with a `main(arguments)`, and what it does. Training is `hguard-train`: it is another package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. An error that a user can mend is one line."""
    parser = argparse.ArgumentParser(
        prog="hguard",
        description="Inference-time hallucination guard.",
        epilog="commands:\n" + "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hguard {VERSION}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below; COMMAND --help")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its options")
    chosen = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal's encoding lacks
    module = importlib.import_module(COMMANDS[chosen.command][0])
    try:
        return int(module.main(chosen.rest))
    except CliError as error:
        sys.stderr.write(f"hguard {chosen.command}: {error}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"\nhguard {chosen.command}: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `hguard ... | head`: nobody reads on; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
