"""`python -m service`: read the settings, load, serve. What is wrong is said in one line, with exit code 2."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from service.admission.key_ring import KeysFileError
from service.app import create_app
from service.loading import StartupError
from service.observe.logs import configure_logs
from service.server import FLUSH_SECONDS, Server
from service.settings import Settings, SettingsError, describe_settings, read_settings
from service.version import VERSION

EXIT_USAGE = 2

logger = logging.getLogger("hguard")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve a model with its hallucination guard. Settings are environment variables, or lines of .env:",
        epilog=describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hguard {VERSION}")
    parser.parse_args(arguments)
    try:
        settings = read_settings()
        configure_logs(settings.log_level, settings.log_format)
        warn_of_risks(settings)
        with bind(settings) as listener:
            return serve(create_app(settings), settings, listener)
    except (SettingsError, KeysFileError, StartupError) as error:
        sys.stderr.write(f"hguard: {error}\n")
        return EXIT_USAGE


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> int:
    """Run uvicorn until a signal; returns the exit code.

    Raises:
        StartupError: Nothing can be loaded by these settings.
    """
    # sse-starlette would cut every stream at the first signal.
    AppStatus.enable_automatic_graceful_drain = False
    server = Server(
        uvicorn.Config(
            app,
            lifespan="on",
            http="h11",  # httptools, the default where it is installed, reads headers without end
            log_config=None,  # ours stands
            log_level=settings.log_level,
            access_log=False,  # it would log query strings; `hguard.access` does it
            server_header=False,
            timeout_graceful_shutdown=FLUSH_SECONDS,
        ),
        app.state.drain,
        app.state.lifecycle,
    )
    server.run(sockets=[listener])
    if (failure := app.state.lifecycle.failure) is not None:
        raise failure
    return 0 if server.started else 1


def warn_of_risks(settings: Settings) -> None:
    """Say what is allowed but no good place to be in."""
    if os.geteuid() == 0:
        logger.warning("runs as root, which it never needs: start it as another user")
    if settings.api_keys_file is None and not settings.is_loopback:
        logger.warning("HGUARD_INSECURE=1: whoever reaches %s may use the model, there are no API keys", settings.host)


def bind(settings: Settings) -> socket.socket:
    """Take the port, so that a taken one is said in one line; uvicorn listens.

    Raises:
        StartupError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns off Nagle's delay (40 ms an answer) on connections whose socket says TCP, and on no others.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "choose another with HGUARD_HOST and HGUARD_PORT, or stop what uses it"
        ) from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
