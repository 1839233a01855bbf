"""
`relayrpc ls --watch`: who comes and goes at a hub, for as long as anybody looks.

Owns: going on where it stopped when the hub was away, and a line for each change. Does not own:
what changed (hub/journal.py).
Source: docs/reference/cli.md; protos/relayrpc/v1/hub.proto, Watch.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import typer

from relayrpc.cli.connection import HUB_SERVICE
from relayrpc.cli.table import as_text


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel
    from relayrpc.v1 import hub_pb2 as pb


__all__ = ["follow"]


async def follow(
    wanted: pb.ListRequest, channel: Channel, address: str, *, as_json: bool
) -> NoReturn:
    """
    Print what there is and what changes, for ever.

    Args:
        wanted: Which hosts.
        channel: To the hub.
        address: Only what is at this address or below it; empty: everything.
        as_json: Print the hub's own answers, one a line.

    Raises:
        RpcError: The hub could not be reached at first, or says no.
    """
    import grpc

    from relayrpc.contract.json import write_json
    from relayrpc.endpoint.rpc_error import RpcError
    from relayrpc.v1 import hub_pb2 as pb

    ask = channel.unary_stream(
        f"/{HUB_SERVICE}/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
    )
    lines = _Lines()
    wanted.address = address
    epoch, number = "", 0
    while True:
        request = pb.WatchRequest(epoch=epoch, after_number=number, only=wanted)
        try:
            async for response in ask(request, wait_for_ready=bool(epoch)):
                if as_json:
                    typer.echo(write_json(response, has_defaults=True))
                else:
                    lines.show(response)
                if response.epoch:
                    epoch, number = response.epoch, response.number
        except RpcError as error:
            if not epoch or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            typer.echo(as_text(f"relayrpc: {error.details()}; waiting for the hub"), err=True)


class _Lines:
    """Turns answers into lines; knows the hosts, because some events name only their link."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, int], pb.HostInfo] = {}

    def show(self, response: pb.WatchResponse) -> None:
        """Print one answer."""
        from relayrpc.v1 import hub_pb2 as pb

        if response.HasField("snapshot"):
            if response.snapshot.is_first:
                self._hosts.clear()
                typer.echo("# who is there now:")
            for host in response.snapshot.hosts:
                self._hosts[host.link_id, host.announcement_id] = host
                _print("-", _word(pb.HostState.Name(host.state)), host)
            if response.snapshot.is_last:
                typer.echo("# and since then:")
        for event in response.events:
            self._show_event(event)

    def _show_event(self, event: pb.HostEvent) -> None:
        from relayrpc.v1 import hub_pb2 as pb

        named = event.host
        if event.kind == pb.HostEvent.KIND_CAME:
            self._hosts[named.link_id, named.announcement_id] = named
        meant = [
            host
            for (link_id, announcement_id), host in self._hosts.items()
            # Events of a link name no announcement.
            if link_id == named.link_id and named.announcement_id in (0, announcement_id)
        ]
        when = datetime.fromtimestamp(event.time_unix_ms / 1000, UTC)
        for host in meant:
            _print(
                when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                _word(pb.HostEvent.Kind.Name(event.kind)),
                host,
            )
            if event.kind == pb.HostEvent.KIND_WENT:
                del self._hosts[host.link_id, host.announcement_id]


def _word(name: str) -> str:
    return name.rpartition("_")[2].lower()


def _print(when: str, what: str, host: pb.HostInfo) -> None:
    services = ",".join(service.name for service in host.services) or "-"
    typer.echo(as_text(f"{when}  {what}  {host.address or '-'}  {host.instance}  {services}"))
