"""
Goal: an operator learns from "$hub" who is there, and changes it, with any stub.

Method: a real hub, hosts and callers on real sockets, and the contract's methods on a channel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

import relayrpc
import relayrpc.aio
from relayrpc import __version__
from relayrpc.errors import ConfigError
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import hub_pb2 as pb
from relayrpc.v1 import link_pb2
from samples.greeter import greeter_pb2_grpc
from samples.greeter.host import Greeter
from tests.support.relay import Stub, peer_links, running_hub
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration

GREETER = "samples.greeter.v1.Greeter"


class HubStub:
    """What grpcio-tools would make of hub.proto."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.List = channel.unary_stream(
            "/relayrpc.v1.Hub/List", pb.ListRequest.SerializeToString, pb.ListResponse.FromString
        )
        self.Watch = channel.unary_stream(
            "/relayrpc.v1.Hub/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )
        self.Drain = channel.unary_unary(
            "/relayrpc.v1.Hub/Drain", pb.DrainRequest.SerializeToString, pb.DrainResponse.FromString
        )
        self.EndLink = channel.unary_unary(
            "/relayrpc.v1.Hub/EndLink",
            pb.EndLinkRequest.SerializeToString,
            pb.EndLinkResponse.FromString,
        )


@contextlib.asynccontextmanager
async def managing(hub: Hub, scheme: str = "ws") -> AsyncIterator[HubStub]:
    port = hub.http_port if scheme == "ws" else hub.grpc_port
    async with relayrpc.aio.channel(f"{scheme}://127.0.0.1:{port}/$hub") as channel:
        yield HubStub(channel)


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _count(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield b""


HANDLERS = {
    "Echo": grpc.unary_unary_rpc_method_handler(_echo),
    "Count": grpc.unary_stream_rpc_method_handler(_count),
}


@contextlib.asynccontextmanager
async def serving(
    hub: Hub, path: str, handlers: dict[str, Any] = HANDLERS, **options: Any
) -> AsyncIterator[relayrpc.aio.Server]:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}{path}", **options)
    server.add_registered_method_handlers("test.Service", handlers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def greeting(hub: Hub, path: str, **options: Any) -> AsyncIterator[relayrpc.aio.Server]:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}{path}", **options)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def listing(stub: HubStub, address: str = "", **wanted: Any) -> pb.ListResponse:
    """The parts put together, those of the hub itself left out."""
    whole = pb.ListResponse()
    async for part in stub.List(pb.ListRequest(address=address, **wanted)):
        whole.MergeFrom(part)
    hosts = [host for host in whole.hosts if not host.is_local]
    del whole.hosts[:]
    whole.hosts.extend(hosts)
    return whole


@pytest.mark.parametrize("scheme", ["ws", "relay"])
async def test_hub_lists_hosts_with_contract_and_link(scheme: str) -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/contoso/a", instance="host-1", slots=3, priority=1),
        managing(hub, scheme) as stub,
    ):
        answer = await listing(stub)
    assert answer.hub.version == __version__
    assert answer.hub.hosts_count == 1
    assert answer.hub.links_count == 2
    (host,) = answer.hosts
    assert (host.instance, host.address, host.slots, host.priority) == (
        "host-1",
        "contoso/a",
        3,
        1,
    )
    assert host.state == pb.HOST_STATE_SERVING
    (service,) = host.services
    assert service.name == "test.Service"
    assert {method.name: method.shape for method in service.methods} == {
        "Echo": link_pb2.SHAPE_UNARY_UNARY,
        "Count": link_pb2.SHAPE_UNARY_STREAM,
    }
    (link,) = [link for link in answer.links if link.link_id == host.link_id]
    assert link.instance == "host-1"
    assert link.peer.startswith("ipv4:127.0.0.1:")
    assert link.state == pb.LINK_STATE_OPEN
    assert link.carrier == "websocket"
    assert link.wire_version == 1
    assert link.agent.startswith(f"relayrpc/{__version__} python/3.")
    assert not link.is_local


async def test_hub_lists_itself_as_its_own_part() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        parts = [part async for part in stub.List(pb.ListRequest())]
    (host,) = parts[0].hosts
    assert host.address == "$hub"
    assert host.is_local
    (link,) = [link for link in parts[0].links if link.is_local]
    assert (link.identity, link.carrier) == ("$hub", "memory")
    assert parts[0].hub.hosts_count == 0


async def test_hub_lists_what_is_at_and_below_an_address() -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/contoso/a", instance="below"),
        serving(hub, "/contoso", instance="at"),
        serving(hub, "/contoso-b", instance="beside"),
        managing(hub) as stub,
    ):
        answer = await listing(stub, "contoso")
        by_name = await listing(stub, "test.Service")
    assert {host.instance for host in answer.hosts} == {"below", "at"}
    assert {link.instance for link in answer.links} == {"below", "at"}
    assert not by_name.hosts


async def test_hub_lists_a_host_without_address_at_the_name_of_its_service() -> None:
    async with running_hub() as hub, serving(hub, ""), managing(hub) as stub:
        (host,) = (await listing(stub, "test.Service")).hosts
    assert host.address == ""


async def test_hub_finds_hosts_by_contract_and_label() -> None:
    eu, us = {"region": "eu", "tier": "1"}, {"region": "us", "tier": "1"}
    async with (
        running_hub() as hub,
        serving(hub, "/contoso/a", instance="a-eu", labels=eu),
        serving(hub, "/contoso/a", instance="a-us", labels=us),
        serving(hub, "/contoso/b", instance="b-eu", labels=eu),
        greeting(hub, "/contoso/a", instance="greeter", labels=us),
        managing(hub) as stub,
    ):

        async def found(**wanted: Any) -> set[str]:
            answer = await listing(stub, **wanted)
            hosts = {host.instance for host in answer.hosts}
            assert {link.instance for link in answer.links} == hosts
            return hosts

        (greeter,) = (await listing(stub, service=GREETER)).hosts
        fingerprint = greeter.services[0].fingerprint
        assert dict(greeter.labels) == us
        assert await found(labels={"region": "eu"}) == {"a-eu", "b-eu"}
        assert await found(labels={"region": "us", "tier": "1"}) == {"a-us", "greeter"}
        assert await found(labels={"region": "us", "tier": "2"}) == set()
        assert await found(service="test.Service", labels=us) == {"a-us"}
        assert await found(address="contoso/a", labels={"region": "eu"}) == {"a-eu"}
        assert await found(service=GREETER, fingerprint=fingerprint) == {"greeter"}
        assert await found(fingerprint=fingerprint[:4]) == {"greeter"}
        assert await found(service="test.Service", fingerprint=fingerprint) == set()


async def test_host_announces_its_labels_on_every_link() -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/a", instance="h1", labels={"region": "eu"}),
        managing(hub) as stub,
    ):
        (before,) = (await listing(stub, labels={"region": "eu"})).hosts
        await stub.EndLink(pb.EndLinkRequest(link_id=before.link_id))
        after = None
        while after is None or after.link_id == before.link_id:
            hosts = (await listing(stub, labels={"region": "eu"})).hosts
            after = hosts[0] if hosts else None


def test_labels_that_cannot_be_announced_are_refused_before_any_io() -> None:
    for make in (relayrpc.aio.server, relayrpc.server):
        with pytest.raises(ConfigError, match="is no name of a label"):
            make("relay://127.0.0.1:1/a", labels={"a b": "c"})


async def test_hub_tells_a_long_list_in_parts() -> None:
    """Each part is one message: gRPC takes none above 4 MiB."""
    many = {f"Method{number:04}": HANDLERS["Echo"] for number in range(3_000)}
    async with (
        running_hub() as hub,
        serving(hub, "/a", many),
        serving(hub, "/b", many),
        managing(hub) as stub,
    ):
        parts = [part async for part in stub.List(pb.ListRequest())]
    assert len(parts) > 1
    assert [part.HasField("hub") for part in parts] == [True] + [False] * (len(parts) - 1)
    addresses = [host.address for part in parts for host in part.hosts]
    assert sorted(addresses) == ["$hub", "a", "b"]


async def test_caller_with_no_path_in_its_url_is_told_that_nobody_listens() -> None:
    """The reserved address is the only one: no host can stand in for the hub there."""
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        async with relayrpc.aio.channel(url) as channel:
            with pytest.raises(relayrpc.aio.RpcError, match="no host listens"):
                await Stub(channel, "relayrpc.v1.Hub").unary_unary("Drain")(b"")


# --- Watch ---


class Watcher:
    """One Watch; forgets and learns as a snapshot and events say."""

    def __init__(
        self, stub: HubStub, epoch: str = "", number: int = 0, only: pb.ListRequest | None = None
    ) -> None:
        self.call = stub.Watch(pb.WatchRequest(epoch=epoch, after_number=number, only=only))
        self.is_whole = only is None
        self.epoch = epoch
        self.number = number
        self.snapshots_count = 0
        self.hosts: dict[tuple[str, int], str] = {}
        self.events: list[pb.HostEvent] = []

    async def read(self) -> pb.WatchResponse:
        response: pb.WatchResponse = await self.call.read()
        if response.HasField("snapshot"):
            if response.snapshot.is_first:
                self.snapshots_count += 1
                self.hosts.clear()
            for host in response.snapshot.hosts:
                self.hosts[host.link_id, host.announcement_id] = host.instance
            assert bool(response.epoch) == response.snapshot.is_last
        for event in response.events:
            assert event.number == self.number + 1 or not self.is_whole
            self.number = event.number
            self.events.append(event)
        if response.epoch:
            self.epoch, self.number = response.epoch, response.number
        return response

    async def event(self, kind: int) -> pb.HostEvent:
        """Read until the last event is of a kind."""
        while not self.events or self.events[-1].kind != kind:
            await self.read()
        return self.events[-1]


async def test_watch_begins_with_a_marked_snapshot() -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/a", instance="h1"),
        managing(hub) as stub,
    ):
        response = await Watcher(stub).read()
        assert response.snapshot.is_first
        assert response.snapshot.is_last
        (host,) = response.snapshot.hosts
        assert (host.instance, host.address) == ("h1", "a")
        assert host.services[0].name == "test.Service"
        assert response.number == 1
        assert response.epoch


async def test_watch_tells_who_comes_and_goes() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        watcher = Watcher(stub)
        await watcher.read()
        async with serving(hub, "/a", instance="h1"):
            came = await watcher.event(pb.HostEvent.KIND_CAME)
            assert came.host.instance == "h1"
            assert came.host.services[0].name == "test.Service"
        went = await watcher.event(pb.HostEvent.KIND_WENT)
        assert went.host.link_id == came.host.link_id
        assert watcher.snapshots_count == 1


async def test_watch_tells_who_lost_the_connection_and_returned() -> None:
    async with (
        running_hub() as hub,
        TCPProxy(hub.http_port) as proxy,
        managing(hub) as stub,
    ):
        watcher = Watcher(stub)
        server = relayrpc.aio.server(f"ws://127.0.0.1:{proxy.port}/a", instance="h1")
        server.add_registered_method_handlers("test.Service", HANDLERS)
        await server.start()
        proxy.cut()
        parked = await watcher.event(pb.HostEvent.KIND_PARKED)
        returned = await watcher.event(pb.HostEvent.KIND_RETURNED)
        assert parked.host.instance == returned.host.instance == "h1"
        await server.stop(None)


async def test_watch_tells_of_the_hosts_that_were_asked_for() -> None:
    eu = {"region": "eu"}
    only = pb.ListRequest(service="test.Service", labels=eu)
    async with (
        running_hub() as hub,
        managing(hub) as stub,
        serving(hub, "/a", instance="other"),
        serving(hub, "/a", instance="there", labels=eu),
    ):
        watcher = Watcher(stub, only=only)
        await watcher.read()
        assert list(watcher.hosts.values()) == ["there"]
        async with (
            serving(hub, "/a", instance="another"),
            serving(hub, "/b", instance="new", labels=eu),
        ):
            for instance in ("another", "there"):
                await stub.Drain(pb.DrainRequest(instance=instance))
        await watcher.event(pb.HostEvent.KIND_WENT)
        told = [(event.kind, event.host.instance) for event in watcher.events]
        assert told == [
            (pb.HostEvent.KIND_CAME, "new"),
            (pb.HostEvent.KIND_DRAINED, "there"),
            (pb.HostEvent.KIND_WENT, "new"),
        ]
        # Whoever comes back is told the same of what was missed.
        again = Watcher(stub, watcher.epoch, 2, only)
        await again.event(pb.HostEvent.KIND_WENT)
        assert again.snapshots_count == 0
        assert [(event.kind, event.host.instance) for event in again.events] == told
        nothing = Watcher(stub, watcher.epoch, watcher.number, pb.ListRequest(service="a.B"))
        assert not (await nothing.read()).events


async def test_watch_tells_of_a_link_to_those_who_asked_for_a_host_on_it() -> None:
    async with (
        running_hub() as hub,
        TCPProxy(hub.http_port) as proxy,
        managing(hub) as stub,
        serving(hub, "/a", instance="other"),
    ):
        url = f"ws://127.0.0.1:{proxy.port}"
        servers = [
            relayrpc.aio.server(f"{url}/{region}", instance=region, labels={"region": region})
            for region in ("eu", "us")
        ]
        for server in servers:
            server.add_registered_method_handlers("test.Service", HANDLERS)
            await server.start()
        watcher = Watcher(stub, only=pb.ListRequest(labels={"region": "eu"}))
        await watcher.read()
        proxy.cut()
        returned = await watcher.event(pb.HostEvent.KIND_RETURNED)
        assert returned.host.instance == "eu"
        kinds = [event.kind for event in watcher.events]
        assert kinds == [pb.HostEvent.KIND_PARKED, pb.HostEvent.KIND_RETURNED]
        for server in servers:
            await server.stop(None)


async def test_watch_goes_on_without_a_gap() -> None:
    """Also from before the first event: then nothing has to stand for what was missed."""
    async with running_hub() as hub, managing(hub) as stub:
        first = Watcher(stub)
        await first.read()
        first.call.cancel()
        async with serving(hub, "/a", instance="h1"):
            pass
        again = Watcher(stub, first.epoch, first.number)
        await again.event(pb.HostEvent.KIND_WENT)
        assert again.snapshots_count == 0
        assert [event.number for event in again.events] == [1, 2]


async def test_watch_says_at_once_that_nothing_happened_since() -> None:
    async with running_hub() as hub, serving(hub, "/a"), managing(hub) as stub:
        first = Watcher(stub)
        await first.read()
        again = Watcher(stub, first.epoch, first.number)
        response = await again.read()
        assert not response.HasField("snapshot")
        assert not response.events
        assert (response.epoch, response.number) == (first.epoch, first.number)


@pytest.mark.parametrize("epoch", ["", "0" * 32])
async def test_watch_begins_anew_after_another_run_of_the_hub(epoch: str) -> None:
    async with running_hub() as hub, serving(hub, "/a"), managing(hub) as stub:
        watcher = Watcher(stub, epoch, 17)
        await watcher.read()
        assert watcher.snapshots_count == 1
        assert watcher.number == 1


async def test_watch_begins_anew_where_events_are_no_longer_kept() -> None:
    limits = replace(DEFAULT_LIMITS, journal_events_max=1)
    async with running_hub(limits=limits) as hub, managing(hub) as stub:
        first = Watcher(stub)
        await first.read()
        first.call.cancel()
        async with serving(hub, "/a", instance="h1"), serving(hub, "/b", instance="h2"):
            again = Watcher(stub, first.epoch, first.number)
            await again.read()
            assert again.snapshots_count == 1
            assert sorted(again.hosts.values()) == ["h1", "h2"]


async def test_watch_tells_a_long_snapshot_in_parts() -> None:
    many = {f"Method{number:04}": HANDLERS["Echo"] for number in range(3_000)}
    async with (
        running_hub() as hub,
        serving(hub, "/a", many, instance="h1"),
        serving(hub, "/b", many, instance="h2"),
        managing(hub) as stub,
    ):
        watcher = Watcher(stub)
        first = await watcher.read()
        assert first.snapshot.is_first
        assert not first.snapshot.is_last
        assert not first.epoch
        last = await watcher.read()
        assert last.snapshot.is_last
        assert not last.snapshot.is_first
        assert sorted(watcher.hosts.values()) == ["h1", "h2"]


async def test_hub_takes_no_more_watchers_than_its_bound() -> None:
    limits = replace(DEFAULT_LIMITS, watchers_max=1)
    async with running_hub(limits=limits) as hub, managing(hub) as stub:
        first = Watcher(stub)
        await first.read()
        with pytest.raises(relayrpc.aio.RpcError, match="1 watchers") as refused:
            await Watcher(stub).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.call.cancel()
        async with serving(hub, "/a"):
            # The place is free once the handler has heard of the cancellation.
            while True:
                with contextlib.suppress(relayrpc.aio.RpcError):
                    await Watcher(stub).read()
                    break


async def test_hub_drains_while_it_is_watched() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        watcher = Watcher(stub)
        await watcher.read()
        await hub.drain()
        with pytest.raises(relayrpc.aio.RpcError) as ended:
            await watcher.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


# --- Drain ---


def named(name: str) -> dict[str, Any]:
    """A host that answers with its name."""

    async def who(_request: bytes, _context: Any) -> bytes:
        return name.encode()

    return {"Who": grpc.unary_unary_rpc_method_handler(who)}


async def test_drained_host_gets_no_calls_until_that_is_undone() -> None:
    async with (
        running_hub() as hub,
        serving(hub, "/a", named("h1"), instance="h1"),
        serving(hub, "/a", named("h2"), instance="h2", priority=1),
        managing(hub) as stub,
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/a") as channel,
    ):
        who = Stub(channel).unary_unary("Who")
        watcher = Watcher(stub)
        assert await who(b"") == b"h1"
        (drained,) = (await stub.Drain(pb.DrainRequest(instance="h1"))).hosts
        assert (drained.instance, drained.state) == ("h1", pb.HOST_STATE_DRAINED)
        assert not drained.services
        assert (await watcher.event(pb.HostEvent.KIND_DRAINED)).host.instance == "h1"
        assert await who(b"") == b"h2"
        (undrained,) = (await stub.Drain(pb.DrainRequest(instance="h1", undo=True))).hosts
        assert undrained.state == pb.HOST_STATE_SERVING
        await watcher.event(pb.HostEvent.KIND_UNDRAINED)
        assert await who(b"") == b"h1"


async def test_running_call_of_a_drained_host_goes_on() -> None:
    called, may_answer = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        called.set()
        await may_answer.wait()
        return request

    handlers = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    async with (
        running_hub() as hub,
        serving(hub, "/a", handlers, instance="h1"),
        managing(hub) as stub,
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/a") as channel,
    ):
        call = Stub(channel).unary_unary("Wait")(b"x")
        await called.wait()
        (host,) = (await stub.Drain(pb.DrainRequest(instance="h1"))).hosts
        assert host.calls_open_count == 1
        with pytest.raises(relayrpc.aio.RpcError, match="going away"):
            await Stub(channel).unary_unary("Wait")(b"")
        may_answer.set()
        assert await call == b"x"


async def test_host_is_drained_at_one_address() -> None:
    async with running_hub() as hub, managing(hub) as stub, serving(hub, "/a", instance="h1"):
        other = pb.DrainRequest(instance="h1", address="b")
        with pytest.raises(relayrpc.aio.RpcError, match="does not listen at 'b'") as missing:
            await stub.Drain(other)
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        (host,) = (await stub.Drain(pb.DrainRequest(instance="h1", address="a"))).hosts
        assert host.address == "a"
        (listed,) = (await listing(stub)).hosts
        assert listed.state == pb.HOST_STATE_DRAINED


async def test_drain_again_changes_nothing() -> None:
    async with running_hub() as hub, serving(hub, "/a", instance="h1"), managing(hub) as stub:
        for _ in range(2):
            await stub.Drain(pb.DrainRequest(instance="h1"))
        watcher = Watcher(stub)
        await watcher.read()
        assert watcher.number == 2


@pytest.mark.parametrize(
    ("instance", "code"),
    [("", grpc.StatusCode.INVALID_ARGUMENT), ("nobody", grpc.StatusCode.NOT_FOUND)],
)
async def test_drain_of_nobody_is_refused(instance: str, code: grpc.StatusCode) -> None:
    async with running_hub() as hub, managing(hub) as stub:
        with pytest.raises(relayrpc.aio.RpcError) as refused:
            await stub.Drain(pb.DrainRequest(instance=instance))
        assert refused.value.code() is code


async def test_hub_does_not_drain_its_own_parts() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        parts = [part async for part in stub.List(pb.ListRequest())]
        own = next(host.instance for host in parts[0].hosts if host.is_local)
        with pytest.raises(relayrpc.aio.RpcError, match="no host"):
            await stub.Drain(pb.DrainRequest(instance=own))


# --- EndLink ---


async def test_ended_link_ends_its_calls_truthfully_and_its_host_comes_back() -> None:
    called = asyncio.Event()

    async def wait(_request: bytes, _context: Any) -> bytes:
        called.set()
        await asyncio.Event().wait()
        return b""

    handlers = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    async with (
        running_hub() as hub,
        serving(hub, "/a", handlers, instance="h1"),
        managing(hub) as stub,
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/a") as channel,
    ):
        watcher = Watcher(stub)
        await watcher.read()
        call = Stub(channel).unary_unary("Wait")(b"")
        await called.wait()
        (host,) = (await listing(stub)).hosts
        answer = await stub.EndLink(pb.EndLinkRequest(link_id=host.link_id, reason="stuck"))
        assert answer.calls_ended_count == 1
        with pytest.raises(relayrpc.aio.RpcError) as ended:
            await call
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ended.value.may_have_executed
        went = await watcher.event(pb.HostEvent.KIND_WENT)
        came = await watcher.event(pb.HostEvent.KIND_CAME)
        assert went.host.link_id == host.link_id
        assert came.host.link_id != host.link_id
        assert came.host.instance == "h1"


async def test_parked_link_can_be_ended() -> None:
    async with (
        running_hub() as hub,
        TCPProxy(hub.http_port) as proxy,
        managing(hub) as stub,
    ):
        watcher = Watcher(stub)
        server = relayrpc.aio.server(f"ws://127.0.0.1:{proxy.port}/a", instance="h1")
        server.add_registered_method_handlers("test.Service", HANDLERS)
        await server.start()
        await proxy.aclose()
        parked = await watcher.event(pb.HostEvent.KIND_PARKED)
        await stub.EndLink(pb.EndLinkRequest(link_id=parked.host.link_id))
        await watcher.event(pb.HostEvent.KIND_WENT)
        await until(lambda: len(peer_links(hub)) == 1)
        await server.stop(None)


async def test_hub_does_not_end_a_link_it_does_not_have_or_its_own() -> None:
    async with running_hub() as hub, managing(hub) as stub:
        parts = [part async for part in stub.List(pb.ListRequest())]
        own = next(link.link_id for link in parts[0].links if link.is_local)
        for link_id, code in (
            (own, grpc.StatusCode.FAILED_PRECONDITION),
            ("", grpc.StatusCode.NOT_FOUND),
            ("0" * 32, grpc.StatusCode.NOT_FOUND),
        ):
            with pytest.raises(relayrpc.aio.RpcError) as refused:
                await stub.EndLink(pb.EndLinkRequest(link_id=link_id))
            assert refused.value.code() is code
