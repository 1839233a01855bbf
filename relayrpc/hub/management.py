"""
The contract relayrpc.v1.Hub, served at "$hub" by the hub as an ordinary host would.

Owns: its handlers, and the link they are served over. Does not own: what is told of links and hosts
(describe.py), what acts on them (session.py, forward.py).
Source: protos/relayrpc/v1/hub.proto; DESIGN.md decision 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final

import grpc

from relayrpc import __version__
from relayrpc.endpoint.server import Server
from relayrpc.hub.describe import describe_host, describe_link, is_at
from relayrpc.hub.local import local_link
from relayrpc.hub.routing import Registration
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.link import Link


__all__ = ["ADDRESS", "SERVICE", "Management"]

ADDRESS: Final = "$hub"
SERVICE: Final = "relayrpc.v1.Hub"

# A part of a long answer is closed once it holds so much: the hub does nothing else while it makes
# one.
_PART_BYTES: Final = 32 * 1024


class Management:
    """What a hub tells its operators, and does for them."""

    def __init__(self, sessions: HubSessions) -> None:
        """
        Args:
            sessions: Of the hub.
        """
        self._sessions = sessions
        self._started_s = 0.0
        self._server = Server(
            lambda on_call: local_link(
                sessions, identity=ADDRESS, peer="local:hub", on_call=on_call
            ),
            address=ADDRESS,
        )
        self._server.add_registered_method_handlers(
            SERVICE,
            {
                "List": grpc.unary_stream_rpc_method_handler(
                    self._list,
                    request_deserializer=pb.ListRequest.FromString,
                    response_serializer=pb.ListResponse.SerializeToString,
                ),
            },
        )

    async def start(self) -> None:
        """Begin to serve; calls may come when this returns."""
        self._started_s = self._sessions.clock()
        await self._server.start()

    async def aclose(self) -> None:
        """End the calls that run, and serve no more. Idempotent."""
        await self._server.stop(None)

    # --- handlers ---

    async def _list(self, request: pb.ListRequest, _context: Any) -> AsyncIterator[pb.ListResponse]:
        sessions = self._sessions
        hosts = [
            registration
            for registration in sessions.forwarder.router.registrations
            if is_at(registration, request.address)
        ]
        links: Iterable[Link] = sessions.table.links
        if request.address:
            links = dict.fromkeys(registration.link for registration in hosts)
        part = pb.ListResponse(hub=self._describe_hub())
        size = part.ByteSize()
        entries: list[Link | Registration] = [*links, *hosts]
        for entry in entries:
            size += self._add(part, entry)
            if size > _PART_BYTES:
                yield part
                # Others may have waited for their turn meanwhile.
                await asyncio.sleep(0)
                part, size = pb.ListResponse(), 0
        if size:
            yield part

    def _add(self, part: pb.ListResponse, entry: Link | Registration) -> int:
        """Add to a part what is not over; returns by how many bytes it grew."""
        info: pb.LinkInfo | pb.HostInfo
        if not isinstance(entry, Registration):
            if entry.is_closed:
                return 0
            carrier = self._sessions.driver(entry).carrier
            info = describe_link(entry, carrier="" if carrier is None else carrier.kind)
            part.links.append(info)
        else:
            if entry.link.is_closed:
                return 0
            info = describe_host(entry)
            part.hosts.append(info)
        return info.ByteSize()

    def _describe_hub(self) -> pb.HubInfo:
        sessions = self._sessions
        peers = [link for link in sessions.table.links if not link.is_local]
        hosts = [
            registration
            for registration in sessions.forwarder.router.registrations
            if not registration.link.is_local
        ]
        waiting_count = len(sessions.forwarder.queue)
        return pb.HubInfo(
            epoch=sessions.table.epoch.hex(),
            version=__version__,
            links_count=len(peers),
            hosts_count=len(hosts),
            calls_open_count=waiting_count + sum(host.calls_open_count for host in hosts),
            calls_waiting_count=waiting_count,
            uptime_ms=round((sessions.clock() - self._started_s) * 1000),
        )
