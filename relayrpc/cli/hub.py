"""
`relayrpc hub`: runs a hub until a signal says stop, then drains it.

Owns: flags, signals, the line that says where the hub listens. Does not own: what flags mean beside
other settings (startup.py), the hub (hub/server.py).
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from relayrpc.cli.flags import Flag, LimitTexts, LogFormChoice, LogLevelChoice, given_flags
from relayrpc.cli.running import STOP_SIGNALS, signals_call
from relayrpc.errors import ConnectError
from relayrpc.extras import loop_factory, needs_extra
from relayrpc.hub.config import HubConfig
from relayrpc.limits import DEFAULT_LIMITS


if TYPE_CHECKING:
    from relayrpc.hub.server import Hub

__all__ = ["hub", "serve"]

_DEFAULTS: Final = HubConfig()


def hub(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="RELAYRPC_CONFIG",
            help="TOML file with settings; else relayrpc.toml, where there is one.",
        ),
    ] = None,
    check_config: Annotated[
        bool,
        typer.Option(
            "--check-config",
            help="Print the settings in effect and what the limits add up to; start nothing.",
        ),
    ] = False,
    grpc: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the gRPC door listens; port 0 picks one.",
            show_default=_DEFAULTS.grpc,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the HTTP door listens; port 0 picks one.",
            show_default=_DEFAULTS.http,
        ),
    ] = None,
    insecure_listen: Annotated[
        bool,
        typer.Option(
            "--insecure-listen",
            help="Listen beyond loopback although nobody is asked who they are.",
        ),
    ] = False,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate chain for both doors, PEM.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its private key, PEM.")
    ] = None,
    http_public: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The HTTP door's URL as peers reach it, ws:// or wss://, where it differs.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="SQLite file in which the hub remembers contracts; without it, in memory.",
        ),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long calls may go on after SIGTERM.",
            show_default=f"{DEFAULT_LIMITS.drain_timeout_s:g}",
        ),
    ] = None,
    resume_window: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long a link lives without a connection.",
            show_default=f"{DEFAULT_LIMITS.resume_window_s:g}",
        ),
    ] = None,
    keepalive: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Silence before a ping; twice that ends a connection.",
            show_default=f"{DEFAULT_LIMITS.keepalive_interval_s:g}",
        ),
    ] = None,
    limit: LimitTexts = None,
    log_format: LogFormChoice = None,
    log_level: LogLevelChoice = None,
    log_calls: Annotated[
        bool, typer.Option("--log-calls", help="Log every call, not only those that fail.")
    ] = False,
) -> None:
    """
    Run a hub until SIGTERM or Ctrl-C, then let running calls finish. A second signal stops at once.

    \b
    Example:
      relayrpc hub --grpc 127.0.0.1:7350 --http 127.0.0.1:7351

    \b
    Prints one line when its ports accept connections:
      relayrpc hub listening: grpc 127.0.0.1:7350, http 127.0.0.1:7351

    Settings may also stand in the environment, as RELAYRPC_GRPC or RELAYRPC_LIMITS__LINKS_MAX, and
    in a file. Flags win over the environment, and the environment wins over the file.

    \b
    Exit codes:
      0  stopped by a signal; with --check-config: nothing is wrong
      1  could not listen, its store cannot be opened, or failed later
      2  a setting cannot be used; nothing was started
    """
    flags = {
        "grpc": Flag("--grpc", grpc),
        "http": Flag("--http", http),
        "insecure_listen": Flag("--insecure-listen", insecure_listen or None),
        "tls_cert": Flag("--tls-cert", tls_cert),
        "tls_key": Flag("--tls-key", tls_key),
        "http_public": Flag("--http-public", http_public),
        "store": Flag("--store", store),
        "log_calls": Flag("--log-calls", log_calls or None),
        "limits.drain_timeout_s": Flag("--drain-timeout", drain_timeout),
        "limits.resume_window_s": Flag("--resume-window", resume_window),
        "limits.keepalive_interval_s": Flag("--keepalive", keepalive),
    }
    given = given_flags(flags, limit=limit, log_format=log_format, log_level=log_level)
    with needs_extra("hub", what="`relayrpc hub`"):
        from relayrpc.cli.startup import start_up
    made = start_up(given, file=config, is_check=check_config)
    if made is not None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(made))


async def serve(hub: Hub) -> None:
    """
    Run a hub on the running loop until SIGTERM or SIGINT, and drain it.

    A second signal, or cancellation, stops without draining; the hub is always closed on return.

    Raises:
        ConnectError: If a port cannot be listened on.
        StoreError: If the store cannot be opened.
    """
    stop = asyncio.Event()
    draining: asyncio.Task[None] | None = None

    def signalled() -> None:
        stop.set()
        if draining is not None:
            draining.cancel()

    with signals_call(signalled, STOP_SIGNALS):
        try:
            await _start(hub)
            grpc = f"{_host(hub.config.grpc)}:{hub.grpc_port}"
            http = f"{_host(hub.config.http)}:{hub.http_port}"
            typer.echo(f"relayrpc hub listening: grpc {grpc}, http {http}")
            await stop.wait()
            draining = asyncio.create_task(hub.drain(), name="relayrpc hub drain")
            await asyncio.wait((draining,))
            if not draining.cancelled():
                draining.result()
        finally:
            await hub.aclose()


async def _start(hub: Hub) -> None:
    try:
        await hub.start()
    except OSError as error:
        reason = error.strerror or error
        raise ConnectError(f"{reason}; choose another port, or 0 for a free one") from error


def _host(address: str) -> str:
    return address.rpartition(":")[0]
