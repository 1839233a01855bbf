"""
`relayrpc hub`: runs a hub until a signal says stop, then drains it.

Owns: flags, signals, the line that says where the hub listens. Does not own: what they mean
(hub/server.py).
Source: docs/reference/cli.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from relayrpc.errors import ConnectError
from relayrpc.extras import needs_extra
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.observe.logs import configure_logging


if TYPE_CHECKING:
    from relayrpc.hub.config import HubConfig
    from relayrpc.hub.server import Hub

__all__ = ["hub", "serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def hub(
    *,
    grpc: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where the gRPC door listens; port 0 picks one."),
    ] = "127.0.0.1:7350",
    http: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Where the HTTP door listens; port 0 picks one."),
    ] = "127.0.0.1:7351",
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
    drain_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long calls may go on after SIGTERM."),
    ] = DEFAULT_LIMITS.drain_timeout_s,
    resume_window: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long a link lives without a connection."),
    ] = DEFAULT_LIMITS.resume_window_s,
    keepalive: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Silence before a ping; twice that ends a connection."
        ),
    ] = DEFAULT_LIMITS.keepalive_interval_s,
) -> None:
    """
    Run a hub until SIGTERM or Ctrl-C, then let running calls finish. A second signal stops at once.

    \b
    Example:
      relayrpc hub --grpc 127.0.0.1:7350 --http 127.0.0.1:7351

    \b
    Prints one line when its ports accept connections:
      relayrpc hub listening: grpc 127.0.0.1:7350, http 127.0.0.1:7351

    \b
    Exit codes:
      0  stopped by a signal
      1  could not listen, or failed later
      2  a flag cannot be used; nothing was started
    """
    limits = dataclasses.replace(
        DEFAULT_LIMITS,
        drain_timeout_s=drain_timeout,
        resume_window_s=resume_window,
        keepalive_interval_s=keepalive,
    )
    configure_logging(form="text", level="info")
    with needs_extra("hub", what="`relayrpc hub`"):
        from relayrpc.gateway.full_hub import full_hub
        from relayrpc.hub.config import HubConfig
    config = HubConfig(
        grpc=grpc,
        http=http,
        insecure_listen=insecure_listen,
        tls_cert=tls_cert,
        tls_key=tls_key,
        http_public=http_public,
        limits=limits,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(full_hub(config), config))


async def serve(hub: Hub, config: HubConfig) -> None:
    """
    Run a hub on the running loop until SIGTERM or SIGINT, and drain it.

    A second signal, or cancellation, stops without draining; the hub is always closed on return.

    Raises:
        ConfigError: If the configuration cannot be used; nothing was started.
        ConnectError: If a port cannot be listened on.
    """
    stop = asyncio.Event()
    draining: asyncio.Task[None] | None = None

    def signalled() -> None:
        stop.set()
        if draining is not None:
            draining.cancel()

    with _signals_call(signalled):
        try:
            await _start(hub)
            grpc = f"{_host(config.grpc)}:{hub.grpc_port}"
            http = f"{_host(config.http)}:{hub.http_port}"
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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextlib.contextmanager
def _signals_call(callback: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    # Where loops take no signal handlers (Windows), Ctrl-C cancels the task, which stops at once.
    with contextlib.suppress(NotImplementedError):
        for number in _SIGNALS:
            loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _host(address: str) -> str:
    return address.rpartition(":")[0]
