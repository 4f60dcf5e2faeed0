"""`hguard ask`: put a question to a running server and see the answer with its risk. Judges nothing itself."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, get_args

import httpx

from service.cli.client import add_connection, check, connect, describe_error, foreign, read_events, reading
from service.cli.screen import Screen
from service.cli.words import EXIT_ACTED, EXIT_UNSCORED, CliError
from service.guard.policy import HELD, Policy

GRACE_SECONDS = 20.0
"""A stream sends a comment every 15 s; a server answers late requests itself."""
_EPILOG = """\
exit codes:
  0    answered, and the guard left the answer as it was (see the risk)
  1    no answer: the server, the network or the key; the line says what to do
  2    the command line is wrong
  3    the guard acted: flagged, blocked, abstained, stopped or suppressed
  4    the answer was NOT SCORED: it has no risk, which is no low risk
  130  interrupted; the server ends the generation within a step
The answer goes to standard output, its judgement to standard error. NO_COLOR is respected."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask once.

    Raises:
        CliError: There is no answer.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    question = sys.stdin.buffer.read().decode(errors="surrogateescape") if options.question == "-" else options.question
    if not question.strip():
        parser.error("the question is empty")
    body = _body(options, question)
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        parser.error("a question is UTF-8 text, and numbers are finite")
    with connect(options, options.timeout + GRACE_SECONDS) as client:
        if options.json:
            response = client.post("/generate", json=body)
            check(response)
            with reading(response):
                answer = response.json()
                status = exit_code(answer["choices"][0]["guard"])
            # Written anew, in ASCII: the text may hold what steers a terminal.
            sys.stdout.write(json.dumps(answer) + "\n")
            return status
        return exit_code(_show(client, body, Screen(is_plain=options.no_color)))


def exit_code(guard: dict[str, Any]) -> int:
    """What a script is told of a guard object. An answer without a risk comes first: it is not known to be harmless."""
    if guard["risk"] is None and guard["status"] != "disabled":
        return EXIT_UNSCORED
    return 0 if guard["action"] == "none" else EXIT_ACTED


def _show(client: httpx.Client, body: dict[str, Any], screen: Screen) -> dict[str, Any]:
    """Stream the answer; returns its guard object.

    Raises:
        CliError: The stream ended in an error, or without an end.
    """
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        check(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise foreign(response)
        return _follow(response, screen)


def _follow(response: httpx.Response, screen: Screen) -> dict[str, Any]:
    shown, guard = "", None
    with reading(response):
        for name, data in read_events(response.iter_bytes()):
            if name == "token":
                screen.token(data["text"] or "", data["risk"])
                shown += data["text"] or ""
            elif name == "guard":
                guard = data
            elif name == "error":
                screen.end_answer()
                raise CliError(describe_error(data["error"]["message"], data["error"]["code"]))
            elif name == "done" and guard is not None:
                text = data["choices"][0]["text"]
                if not shown and text:  # it was replaced by another one
                    screen.token(text, None)
                if shown or text:
                    screen.end_answer()
                screen.judgement(guard)
                return guard
    raise CliError("the answer broke off, so nothing is known of it: ask again")


def _body(options: argparse.Namespace, question: str) -> dict[str, Any]:
    """The request; what was not chosen is left to the server."""
    sampling = {name: getattr(options, name) for name in ("max_tokens", "temperature", "seed")}
    guard = {name: getattr(options, name) for name in ("policy", "threshold", "alpha", "probe")}
    body: dict[str, Any] = {
        "prompt": question,
        "sampling": {name: value for name, value in sampling.items() if value is not None},
        "guard": {name: value for name, value in guard.items() if value is not None} | {"explain": options.explain},
        "timeout_s": options.timeout,
    }
    if options.policy in HELD and not options.json:
        body["stream_mode"] = "hold"
    return body


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hguard ask",
        description="Ask a running server. Tokens are coloured by their risk.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("question", help="the question; - reads it from standard input")
    add_connection(parser, "address of the server (HGUARD_URL, or this machine at HGUARD_HOST and HGUARD_PORT)")
    add("--policy", choices=get_args(Policy), help="what to do about a risk (the server's default: annotate)")
    add("--threshold", type=_threshold, help="risk from which to act, or a budget such as fpr:0.05 (the probe's own)")
    add("--alpha", type=float, help="multiplier on the H-neurons, 1 is off; experimental")
    add("--probe", help="name or name@version of the probe")
    add("--max-tokens", type=int, help="tokens of the answer at most (128)")
    add("--temperature", type=float, help="0 is greedy (0)")
    add("--seed", type=int, help="of the draw, where the temperature is over 0")
    add("--explain", action="store_true", help="list the neurons that say most")
    add("--timeout", type=float, default=60.0, help="seconds after which the server gives up (%(default)g)")
    add("--json", action="store_true", help="print the server's answer as it is")
    add("--no-color", action="store_true", help="no colours; without a terminal there are none anyway")
    return parser


def _threshold(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # a budget; the server refuses what is none, in words
