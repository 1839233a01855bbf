"""
`relayrpc drain`: has a host instance get no new calls, or some again.

Owns: the command. Does not own: what draining is (hub/hosts.py).
Source: docs/reference/cli.md; protos/relayrpc/v1/hub.proto, Drain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relayrpc.cli.connection import HUB_SERVICE, CAFile, run_at_hub
from relayrpc.cli.table import as_text
from relayrpc.errors import ConfigError


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.v1 import hub_pb2 as pb


__all__ = ["drain"]


def drain(
    url: Annotated[str, typer.Argument(metavar="URL", help="The hub.")],
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE", help="The host's instance id, as ls shows it.")
    ],
    *,
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Only what it serves at this address.")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Give it new calls again.")] = False,
    tls_ca: CAFile = None,
) -> None:
    """
    Have a host get no new calls; running ones go on.

    \b
    Example:
      relayrpc drain relay://127.0.0.1:7350 billing-2 --address contoso/billing

    \b
    Exit codes:
      0  done; one line for each address that is drained, or no longer is
      1  the hub cannot be reached, or no such host listens there
      2  a flag or the URL cannot be used
    """
    from relayrpc.v1 import hub_pb2 as pb

    if not instance:
        raise ConfigError("an empty instance id names nobody; `relayrpc ls` shows who is there")
    request = pb.DrainRequest(instance=instance, address=address.strip("/"), undo=undo)

    async def ask(channel: Channel, path: str) -> pb.DrainResponse:
        if path:
            raise ConfigError(f"the address goes with --address {path}, not into the URL")
        ask = channel.unary_unary(
            f"/{HUB_SERVICE}/Drain",
            pb.DrainRequest.SerializeToString,
            pb.DrainResponse.FromString,
        )
        answer: pb.DrainResponse = await ask(request)
        return answer

    for host in run_at_hub(url, ask, tls_ca=tls_ca).hosts:
        state = "gets calls" if undo else "drained"
        calls = f"{host.calls_open_count} calls in flight"
        where = host.address or "its services' default addresses"
        typer.echo(as_text(f"{host.instance} at {where}: {state}, {calls}"))
