"""
`relayrpc expose`: makes hosts of existing gRPC servers until a signal says stop, then drains them.

Owns: flags, signals, what is printed. Does not own: what is exposed and how (agent/), the file
(backends.py).
Source: docs/reference/cli.md; docs/howto/expose-an-existing-server.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relayrpc.cli.flags import LimitTexts, LogFormChoice, LogLevelChoice, given_flags
from relayrpc.cli.running import RELOAD_SIGNALS, STOP_SIGNALS, signals_call
from relayrpc.cli.table import as_text
from relayrpc.contract.labels import parse_labels
from relayrpc.errors import ConfigError
from relayrpc.extras import loop_factory, needs_extra
from relayrpc.observe.logs import configure_logging


if TYPE_CHECKING:
    from relayrpc.agent.agent import Agent
    from relayrpc.agent.backend import Backend


__all__ = ["expose"]


def expose(
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="The server, as grpc://host:port.")
    ] = None,
    *,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The hub, and the address to serve at. Repeatable: hubs that take its place.",
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="The server speaks TLS.")] = False,
    tls_ca: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Certificates to trust for the server, PEM."),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate chain to show it, PEM.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its private key, PEM.")
    ] = None,
    tls_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the server's certificate, where it differs."),
    ] = None,
    hub_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificates to trust for the hub, PEM.")
    ] = None,
    descriptors: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Descriptor set of a server without reflection."),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Expose this service and not all; repeatable."),
    ] = None,
    health: Annotated[
        str, typer.Option(metavar="NAME", help="Watch the health of this service.")
    ] = "",
    slots: Annotated[
        int, typer.Option(metavar="COUNT", min=0, help="Calls at once; 0: any number.")
    ] = 0,
    priority: Annotated[
        int, typer.Option(min=0, help="Above 0: stand by for hosts of a lower number.")
    ] = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="What the host is found by, as region=eu; repeatable."
        ),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail when the server or the hub is not there.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="RELAYRPC_CONFIG",
            help="TOML file with an [[expose]] for each server; without TARGET: relayrpc.toml.",
        ),
    ] = None,
    limit: LimitTexts = None,
    log_format: LogFormChoice = None,
    log_level: LogLevelChoice = None,
) -> None:
    """
    Make a host of a gRPC server as it is, until SIGTERM or Ctrl-C; then let running calls finish.

    \b
    Example:
      relayrpc expose grpc://127.0.0.1:50051 --at relay://hub:7350/contoso/greeter

    \b
    Prints a line for each server that is in routing:
      relayrpc expose: grpc://127.0.0.1:50051 at contoso/greeter, 2 services

    What a server serves is asked of its reflection. Without that, --descriptors FILE or --service
    NAME says it. A server that is not there, or whose grpc.health.v1 says so, is out of routing
    until it is back. Several servers stand in a file, which SIGHUP has read again; calls go on.

    \b
    Exit codes:
      0  stopped by a signal
      1  nothing can be exposed: no contract, the hub said no, or with --no-wait nobody is there
      2  a flag or a setting cannot be used; nothing was started
    """
    given = given_flags({}, limit=limit, log_format=log_format, log_level=log_level)
    with needs_extra("agent", what="`relayrpc expose`"):
        from relayrpc.agent.agent import Agent
        from relayrpc.agent.backend import Backend
        from relayrpc.cli.backends import read_backends
        from relayrpc.cli.config import DEFAULT_FILE, load_settings

    settings = load_settings(given, file=config)
    if settings.problems:
        raise ConfigError("\n".join(settings.problems))
    if target is not None:
        if not at:
            raise ConfigError("--at is missing: where to serve, as relay://hub:7350/contoso/greeter")
        only = Backend(
            target=target, at=tuple(at), tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key,
            tls_name=tls_name, hub_ca=hub_ca, descriptors=descriptors,
            services=tuple(service or ()), health=health, slots=slots, priority=priority,
            labels=parse_labels(label or ()),
        )  # fmt: skip

        def read() -> list[Backend]:
            return [only]

    else:
        if at:
            raise ConfigError("--at without a server; write relayrpc expose grpc://host:port --at")

        def read() -> list[Backend]:
            return read_backends(config or Path(DEFAULT_FILE))

    backends = read()
    configure_logging(form=settings.log_format, level=settings.log_level)
    agent = Agent(limits=settings.config.limits, report=_report, must_be_there=no_wait)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(agent, backends, read, settings.config.limits.drain_timeout_s))


async def _serve(
    agent: Agent, backends: list[Backend], read: Callable[[], list[Backend]], drain_s: float
) -> None:
    """
    Run an agent on the running loop until SIGTERM or SIGINT, and drain it; SIGHUP has `read` say
    again what is exposed. A second signal stops at once.

    Raises:
        RelayError: Nothing is left to expose.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    draining: asyncio.Task[None] | None = None

    def signalled() -> None:
        stopped.set()
        if draining is not None:
            draining.cancel()

    def reload() -> None:
        try:
            agent.apply(read())
        except ConfigError as error:
            for line in str(error).splitlines():
                _report(f"{line}; nothing has changed", is_trouble=True)

    with signals_call(signalled, STOP_SIGNALS), signals_call(reload, RELOAD_SIGNALS):
        try:
            agent.apply(backends)
            stopping = loop.create_task(stopped.wait())
            finished = loop.create_task(agent.finished())
            await asyncio.wait((stopping, finished), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if finished.done():
                raise finished.result()
            finished.cancel()
            draining = loop.create_task(agent.stop(drain_s))
            await asyncio.wait((draining,))
        finally:
            await agent.stop(None)


def _report(line: str, *, is_trouble: bool = False) -> None:
    typer.echo(f"relayrpc expose: {as_text(line)}", err=is_trouble)
