"""The commands: `python -m server [run|check-config|token|asyncapi]`."""

import argparse
import asyncio
import errno
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from server import runtime
from server.app import Tertulia
from server.asyncapi import document
from server.composition import make_tokens
from server.domain.errors import ChatError
from server.realtime.bus import BusRefusedError
from server.settings import Settings
from server.settings_load import SettingsError, describe, find_environment_warning, load
from server.settings_secret import load_or_create_secret
from server.storage.base import StoreRefusedError
from server.telemetry import configure, get_logger

_OK, _FAILED, _BAD_CONFIG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "asyncapi":
        print(msgspec.json.format(msgspec.json.encode(document()), indent=2).decode())
        return _OK
    warning = find_environment_warning(os.environ)
    if warning is not None and options.command == "check-config":
        print(f"warning: {warning}", file=sys.stderr)
    try:
        settings = load(Path(options.config) if options.config else None, _environment(options))
        if options.command == "check-config":
            print("the configuration is fine")
            return _OK
        if options.command == "token" and not settings.server.development:
            print("token: only with server.development (TERTULIA_SERVER__DEVELOPMENT=true)", file=sys.stderr)
            return _FAILED
        secret = _secret(settings)
    except SettingsError as error:
        print(describe(error.problems), file=sys.stderr)
        return _BAD_CONFIG
    if options.command == "token":
        print(make_tokens(settings.auth, secret).make_outside(options.user, now=int(time.time())))
        return _OK
    configure(settings.log)
    if warning is not None:
        get_logger(__name__).warning("settings.ignored", detail=warning)
    return runtime.run(_serve(settings, secret))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m server", description="Tertulia, a realtime chat server.")
    parser.set_defaults(command="run", config=None, host=None, port=None)
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="start the server (the default)")
    check = commands.add_parser("check-config", help="name every error of the configuration")
    token = commands.add_parser("token", help="print an access token (development only)")
    commands.add_parser("asyncapi", help="print the AsyncAPI 3.0 document")
    token.add_argument("--user", required=True, help="the user's id")
    for command in (parser, run, check, token):
        command.add_argument("--config", help="the settings file", default=argparse.SUPPRESS)
    for command in (parser, run):
        command.add_argument("--host", help="overrides server.host", default=argparse.SUPPRESS)
        command.add_argument("--port", help="overrides server.port", default=argparse.SUPPRESS)
    return parser


def _environment(options: argparse.Namespace) -> dict[str, str]:
    overrides = {"TERTULIA_SERVER__HOST": options.host, "TERTULIA_SERVER__PORT": options.port}
    return {**os.environ, **{name: value for name, value in overrides.items() if value is not None}}


def _secret(settings: Settings) -> str:
    if settings.auth.secret is not None:
        return settings.auth.secret.reveal()
    return load_or_create_secret(settings.database.folder)


async def _serve(settings: Settings, secret: str) -> int:
    try:
        server = Tertulia(settings, secret)
    except BusRefusedError as error:
        print(f"cluster.url: {error}", file=sys.stderr)
        return _FAILED
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(name, stopping.set)
        except NotImplementedError:  # Windows
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stopping.set))
    try:
        port = await server.start()
    except (StoreRefusedError, ChatError) as error:
        print(f"database.url: {error}", file=sys.stderr)
    except BusRefusedError as error:
        print(f"cluster.url: {error}", file=sys.stderr)
    except OSError as error:
        print(_about_port(settings, error), file=sys.stderr)
    else:
        print(f"Tertulia is at {settings.server.url(port)}", flush=True)
        await stopping.wait()
        await server.drain()
        await server.close()
        return _OK
    await server.close()
    return _FAILED


def _about_port(settings: Settings, error: OSError) -> str:
    server = settings.server
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {server.port} is in use: stop what runs there, or set TERTULIA_SERVER__PORT to another one"
        )
    return f"cannot listen on {server.host}:{server.port}: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
