"""
The contract relayrpc.v1.Hub, served at "$hub" by the hub as an ordinary host would.

Owns: its handlers, and the link they are served over. Does not own: what is told of links and hosts
(describe.py), what happened to them (journal.py), what acts on them (link.py, hosts.py).
Source: protos/relayrpc/v1/hub.proto; DESIGN.md decision 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Final

import grpc

from relayrpc import __version__
from relayrpc.endpoint.server import Server
from relayrpc.hub.contract_queries import ContractQueries
from relayrpc.hub.describe import PART_BYTES, describe_host, describe_link, describe_state
from relayrpc.hub.local import local_link
from relayrpc.hub.routing import Registration
from relayrpc.hub.selection import Selection
from relayrpc.link.call import retry_pushback
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.hub.contracts import HubContracts
    from relayrpc.hub.journal import Journal
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.link import Link


__all__ = ["ADDRESS", "SERVICE", "Management"]

ADDRESS: Final = "$hub"
SERVICE: Final = "relayrpc.v1.Hub"

# So many hosts are looked at in one go.
_STEP_HOSTS: Final = 256
_REASON_CHARS_MAX: Final = 256


class Management:
    """What a hub tells its operators, and does for them."""

    def __init__(self, sessions: HubSessions, journal: Journal, contracts: HubContracts) -> None:
        """
        Args:
            sessions: Of the hub.
            journal: Listens to them.
            contracts: Does so too.
        """
        self._sessions = sessions
        self._journal = journal
        queries = ContractQueries(sessions, contracts)
        self._watchers_count = 0
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
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch,
                    request_deserializer=pb.WatchRequest.FromString,
                    response_serializer=pb.WatchResponse.SerializeToString,
                ),
                "Drain": grpc.unary_unary_rpc_method_handler(
                    self._drain,
                    request_deserializer=pb.DrainRequest.FromString,
                    response_serializer=pb.DrainResponse.SerializeToString,
                ),
                "EndLink": grpc.unary_unary_rpc_method_handler(
                    self._end_link,
                    request_deserializer=pb.EndLinkRequest.FromString,
                    response_serializer=pb.EndLinkResponse.SerializeToString,
                ),
                "GetContract": grpc.unary_unary_rpc_method_handler(
                    queries.get_contract,
                    request_deserializer=pb.GetContractRequest.FromString,
                    response_serializer=pb.GetContractResponse.SerializeToString,
                ),
                "CheckContract": grpc.unary_unary_rpc_method_handler(
                    queries.check_contract,
                    request_deserializer=pb.CheckContractRequest.FromString,
                    response_serializer=pb.CheckContractResponse.SerializeToString,
                ),
                "ListContracts": grpc.unary_stream_rpc_method_handler(
                    queries.list_contracts,
                    request_deserializer=pb.ListContractsRequest.FromString,
                    response_serializer=pb.ListContractsResponse.SerializeToString,
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

    async def _list(
        self, request: pb.ListRequest, _context: Context
    ) -> AsyncIterator[pb.ListResponse]:
        part = pb.ListResponse(hub=self._describe_hub())
        size = part.ByteSize()
        async for entry in self._entries(Selection(request)):
            size += self._add(part, entry)
            if size > PART_BYTES:
                yield part
                # Others may have waited for their turn meanwhile.
                await asyncio.sleep(0)
                part, size = pb.ListResponse(), 0
        if size:
            yield part

    async def _entries(self, wanted: Selection) -> AsyncIterator[Link | Registration]:
        """Yield what is there now and meant, each link before the hosts on it."""
        sessions = self._sessions
        hosts = sessions.forwarder.router.registrations
        if wanted.is_all:
            for each in sessions.table.links:
                yield each
            for registration in hosts:
                yield registration
            return
        link = None
        async for registration in _chosen(hosts, wanted):
            if registration.link is not link:
                link = registration.link
                yield link
            yield registration

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

    async def _watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        watchers_max = self._sessions.limits.watchers_max
        if self._watchers_count >= watchers_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{watchers_max} watchers are there; try later",
                (retry_pushback(self._sessions.limits.retry_after_s),),
            )
        news = asyncio.Event()
        self._watchers_count += 1
        self._journal.listeners[news.set] = None
        try:
            wanted = Selection(request.only)
            async for response in self._tell(request.epoch, request.after_number, wanted, news):
                yield response
        finally:
            self._watchers_count -= 1
            del self._journal.listeners[news.set]

    async def _tell(
        self, epoch: str, number: int, wanted: Selection, news: asyncio.Event
    ) -> AsyncIterator[pb.WatchResponse]:
        """Tell what came after an event, and what comes, for ever."""
        journal = self._journal
        # The first answer says where the watcher stands, also where nothing happened since.
        is_answered = False
        while True:
            news.clear()
            events = journal.after(epoch, number, bytes_max=PART_BYTES)
            if events is None:
                epoch, number = journal.epoch, journal.number
                async for response in self._take_stock(epoch, number, wanted):
                    yield response
            elif events or not is_answered:
                number = events[-1].number if events else number
                events = [event for event in events if self._is_meant(event, wanted)]
                if events or not is_answered:
                    yield pb.WatchResponse(epoch=epoch, number=number, events=events)
                await asyncio.sleep(0)
            else:
                await news.wait()
            is_answered = True

    def _is_meant(self, event: pb.HostEvent, wanted: Selection) -> bool:
        """Say whether an event is of a host that is meant."""
        named = event.host
        if wanted.is_all or named.services:
            return wanted.takes(named)
        # It does not tell what hosts are found by. Of one that has gone since, that is all that
        # matters, and told next.
        link = self._sessions.table.find(named.link_id)
        return link is not None and any(
            wanted.takes(registration.announce)
            for registration in self._sessions.forwarder.router.of_link(link)
            # Events of a link name no announcement.
            if named.announcement_id in (0, registration.announce.id)
        )

    async def _take_stock(
        self, epoch: str, number: int, wanted: Selection
    ) -> AsyncIterator[pb.WatchResponse]:
        """Tell which hosts there are, as of an event that is the last one now."""
        hosts = [
            registration
            for registration in self._sessions.forwarder.router.registrations
            if not registration.link.is_local
        ]
        part = pb.HostSnapshot(is_first=True)
        size = 0
        async for registration in _chosen(hosts, wanted):
            if size > PART_BYTES:
                yield pb.WatchResponse(snapshot=part)
                await asyncio.sleep(0)
                part, size = pb.HostSnapshot(), 0
            if not registration.link.is_closed:
                info = describe_host(registration)
                part.hosts.append(info)
                size += info.ByteSize()
        part.is_last = True
        yield pb.WatchResponse(epoch=epoch, number=number, snapshot=part)

    async def _drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        if not request.instance:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "which instance? List tells their ids"
            )
        forwarder = self._sessions.forwarder
        of_instance = [
            registration
            for registration in forwarder.router.registrations
            if registration.link.instance == request.instance and not registration.link.is_local
        ]
        hosts = [
            registration
            for registration in of_instance
            if not request.address
            or any(address == request.address for address, _ in registration.places)
        ]
        if not hosts:
            what = f"no host with instance {request.instance!r} listens"
            if of_instance:
                what = f"instance {request.instance!r} does not listen at {request.address!r}"
            await context.abort(grpc.StatusCode.NOT_FOUND, what)
        for registration in hosts:
            if registration.is_drained == request.undo:
                forwarder.hosts.set_drained(
                    registration, is_drained=not request.undo, now_s=self._sessions.clock()
                )
        return pb.DrainResponse(hosts=[describe_state(registration) for registration in hosts])

    async def _end_link(self, request: pb.EndLinkRequest, context: Context) -> pb.EndLinkResponse:
        link = self._sessions.table.find(request.link_id)
        if link is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no link {request.link_id[:80]!r}")
        if link.is_local:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "the link is a part of the hub itself"
            )
        calls_count = link.calls_open_count
        reason = request.reason[:_REASON_CHARS_MAX]
        link.close(
            code=link_pb2.Close.CODE_SHUTDOWN,
            reason=f"an operator ended the link: {reason}" if reason else "an operator ended it",
        )
        # Its driver has the calls ended and the link forgotten.
        link.flush_soon()
        return pb.EndLinkResponse(calls_ended_count=calls_count)


async def _chosen(hosts: Iterable[Registration], wanted: Selection) -> AsyncIterator[Registration]:
    """Yield those that are meant, and let others have their turn while looking."""
    for count, registration in enumerate(hosts, start=1):
        if wanted.takes(registration.announce):
            yield registration
        if not count % _STEP_HOSTS:
            await asyncio.sleep(0)
