"""The commands' HTTP client: where the server is, which key it is sent, and errors in one line that names the fix."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from dotenv import dotenv_values

from service.cli.address import address_of, is_this_machine, without_secret
from service.cli.words import CliError, one_line
from service.settings import ENV_FILE, Settings

CONNECT_SECONDS = 5.0
_HINTS = {
    "invalid_api_key": "--key-file FILE or HGUARD_CLIENT_KEY sends a key",
    "not_ready": "`hguard doctor` on its machine finds out why",
    "probe_not_found": "`hguard probes` lists them",
}


def add_connection(parser: argparse.ArgumentParser, url_help: str) -> None:
    """The options --url and --key-file."""
    parser.add_argument("--url", help=url_help)
    parser.add_argument("--key-file", type=Path, help="file that holds the API key (HGUARD_CLIENT_KEY, or none)")


def default_url() -> str:
    """HGUARD_URL, else this machine at the service's own HGUARD_HOST and HGUARD_PORT; from environment or `.env`.

    Raises:
        CliError: The port is 0, which is none to connect to.
    """
    found = _environment()
    if url := found.get("HGUARD_URL"):
        return url
    host = found.get("HGUARD_HOST") or str(Settings.model_fields["host"].default)
    port = found.get("HGUARD_PORT") or str(Settings.model_fields["port"].default)
    if port == "0":
        raise CliError("HGUARD_PORT=0 lets the server pick a port: name it with --url http://127.0.0.1:PORT")
    return address_of(host, port)


@contextmanager
def connect(options: argparse.Namespace, seconds: float = 60.0) -> Iterator[httpx.Client]:
    """A client of the server that the options name.

    Args:
        options: Of `add_connection`.
        seconds: How long it may say nothing.

    Raises:
        CliError: Nothing answers, the connection breaks, or the key cannot be read.
    """
    url = options.url or default_url()
    headers = {"authorization": f"Bearer {key}"} if (key := _read_key(options.key_file)) else {}
    timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
    shown = one_line(without_secret(url))
    try:
        # What goes to this machine, question and key, is no proxy's business.
        may_proxy = not is_this_machine(url)
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=may_proxy) as client:
            yield client
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise CliError(
            f"nothing answers at {shown} ({one_line(str(error))}): start a server with `hguard serve`, or name "
            "another with --url or HGUARD_URL"
        ) from None
    except httpx.TimeoutException:
        raise CliError(f"{shown} said nothing for {seconds:g} s: --timeout waits longer") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise CliError(f"{shown} is no address: give one such as http://127.0.0.1:8000") from None
    except httpx.TransportError as error:
        raise CliError(f"the connection to {shown} broke: {one_line(str(error)) or 'try again'}") from None


def check(response: httpx.Response) -> None:
    """Refuse every answer that is not a success; reads its body.

    Raises:
        CliError: With the server's own words, and what to do.
    """
    if response.is_success:
        return
    response.read()
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, LookupError, TypeError):
        raise foreign(response) from None
    if wait := response.headers.get("retry-after"):
        message += f" (try again in {wait} s)"
    raise CliError(describe_error(message, code, response.status_code))


@contextmanager
def reading(response: httpx.Response) -> Iterator[None]:
    """Around everything that takes fields from an answer.

    Raises:
        CliError: They are not there: something else than hguard answers at this address.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError):
        raise foreign(response) from None


def foreign(response: httpx.Response) -> CliError:
    """The error of an answer that is not hguard's."""
    where = one_line(without_secret(str(response.url)))
    return CliError(f"{where} answers {response.status_code}, and not as hguard does: look at --url")


def describe_error(message: str, code: str, status: int | None = None) -> str:
    """One line of an error envelope."""
    hint = f"; {_HINTS[code]}" if code in _HINTS else ""
    return one_line(f"{message} ({code}{'' if status is None else f', HTTP {status}'}){hint}")


def read_events(chunks: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""(name, data) of each server-sent event.

    Lines end at a line feed alone: httpx would also cut them at U+2028 or U+0085, which JSON leaves as they are.
    """
    name, rest = "", b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").decode().strip()
            elif line.startswith(b"data: "):
                yield name, json.loads(line.removeprefix(b"data: "))


def _read_key(path: Path | None) -> str | None:
    where = "HGUARD_CLIENT_KEY" if path is None else f"--key-file {path}"
    if path is None:
        key = _environment().get("HGUARD_CLIENT_KEY")
        if not key:
            return None
    else:
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"{where}: {one_line(str(error))}") from None
    if not key.isascii() or not key.isprintable() or not key:
        raise CliError(f"{where}: an API key is one line of ASCII, alone; this is none")
    return key


def _environment() -> Mapping[str, str]:
    """As the service reads its settings: variables before the lines of `.env`."""
    file = {name.upper(): value for name, value in dotenv_values(ENV_FILE).items() if value}
    return {**file, **{name: value for name, value in os.environ.items() if value}}
