"""Addresses of servers: where one that listens is reached, whether it is this machine, and what of it may be shown."""

import ipaddress
import re

import httpx


def address_of(host: str, port: int | str) -> str:
    """Where a server is reached that listens at this host; whoever listens everywhere is here, too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_this_machine(url: str) -> bool:
    """Whether the address is of the loopback.

    Raises:
        httpx.InvalidURL: It is none.
    """
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_secret(url: str) -> str:
    """For messages: a user's name and password are left out, of what is no address, too."""
    return re.sub(r"^(\w+://)?.*@", r"\1***@", url)
