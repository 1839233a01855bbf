"""
Goal: callbacks, lines and sessions live through carriers that are cut, both at once and while they
are at work; nothing is lost, nothing doubled, and the order stays. What is idle stays, too, for as
long as keepalive says that both ends are there.

Method: a host and a caller on a hub in memory, in virtual time; carriers cut as often as messages
pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from relayrpc.aio import Channel, Server, SessionState
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.testing import MemoryHub, memory_hub, run_virtual
from tests.support.relay import Stub, make_handlers


_ADDRESS: Final = "sim/host"
_EVENTS: Final = "test.Events"
_COUNT: Final = 40
_SEEDS: Final = range(5)


class Listener:
    """What the caller serves."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    async def tell(self, request: bytes, context: Any) -> bytes:
        self.heard.append(int(request))
        return request

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            self.heard.append(int(request))
            yield request


def _add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    handlers = make_handlers({"uu:Tell": listener.tell, "ss:Echo": listener.echo})
    server.add_registered_method_handlers(_EVENTS, handlers)


async def _numbers() -> AsyncIterator[bytes]:
    for number in range(_COUNT):
        yield b"%d" % number
        await asyncio.sleep(0.05)


class Host:
    """Keeps a stub of whoever calls, and calls back."""

    def __init__(self) -> None:
        self.stubs: list[Stub] = []
        self.sessions: list[Any] = []
        self.put: list[int] = []

    async def keep(self, request: bytes, context: Any) -> bytes:
        self.stubs.append(Stub(context.caller(), _EVENTS))
        self.sessions.append(context.session)
        return request

    async def ask(self, request: bytes, context: Any) -> bytes:
        """Have a stream answered by the caller, message by message."""
        echo = Stub(context.caller(), _EVENTS).stream_stream("Echo")
        return b" ".join([reply async for reply in echo(_numbers())])

    async def take(self, request: bytes, context: Any) -> bytes:
        self.put.append(int(request))
        return request


async def _cut_for_ever(hub: MemoryHub, *peers: Server | Channel) -> None:
    """Cut the carriers of all of them, at once, whenever they have some again."""
    while True:
        await asyncio.sleep(0.3)
        for peer in peers:
            if peer.live.carrier is not None:
                hub.carrier(peer).cut()


Scene = Callable[[Host, Listener, Channel], Coroutine[Any, Any, None]]


async def _within_a_call(host: Host, listener: Listener, channel: Channel) -> None:
    replies = await Stub(channel).unary_unary("Ask")(b"")
    assert replies.split() == [b"%d" % number for number in range(_COUNT)]
    assert listener.heard == list(range(_COUNT))


async def _over_a_line(host: Host, listener: Listener, channel: Channel) -> None:
    await Stub(channel).unary_unary("Keep")(b"")
    for number in range(_COUNT):
        assert await host.stubs[0].unary_unary("Tell")(b"%d" % number) == b"%d" % number
        await asyncio.sleep(0.05)
    assert listener.heard == list(range(_COUNT))


async def _in_a_session(host: Host, listener: Listener, channel: Channel) -> None:
    """Calls, one-way calls and callbacks of one session, as they come."""
    one_way = [("relay-confirm", "hub")]
    async with channel.session() as session:
        stub = Stub(session)
        await stub.unary_unary("Keep")(b"")
        taking = []
        for number in range(_COUNT):
            data = b"%d" % number
            metadata = one_way if number % 3 == 0 else []
            taking.append(
                asyncio.ensure_future(stub.unary_unary("Take")(data, metadata=metadata))
            )
            await asyncio.sleep(0)
            assert await host.stubs[0].unary_unary("Tell")(data) == data
            await asyncio.sleep(0.05)
        await asyncio.gather(*taking)
        replies = await stub.unary_unary("Ask")(b"")
        assert replies.split() == [b"%d" % number for number in range(_COUNT)]
    assert session.state is SessionState.CLOSED
    assert session.fault == ""
    assert host.put == list(range(_COUNT))
    assert listener.heard == 2 * list(range(_COUNT))


async def _play(scene: Scene) -> None:
    host, listener = Host(), Listener()
    async with memory_hub() as hub:
        server = hub.server(_ADDRESS)
        behaviors = {"uu:Keep": host.keep, "uu:Ask": host.ask, "uu:Take": host.take}
        server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
        await server.start()
        channel = hub.channel(_ADDRESS, callbacks=[(_add_listener, listener)])
        await channel.channel_ready()
        links = [server.live.link, channel.live.link]
        cutting = asyncio.create_task(_cut_for_ever(hub, server, channel))
        await scene(host, listener, channel)
        cutting.cancel()
        # The same links still, on one carrier after the other.
        assert [server.live.link, channel.live.link] == links
        assert min(link.attempt for link in links) > 1
        host.stubs.clear()


@pytest.mark.parametrize("scene", [_within_a_call, _over_a_line, _in_a_session])
def test_nothing_is_lost_or_doubled(scene: Scene) -> None:
    for seed in _SEEDS:
        run_virtual(lambda: _play(scene), seed=seed)


def test_a_line_that_is_given_up_before_it_leaves_is_over_at_both_ends() -> None:
    """What opens it says then that the host needs it no more."""

    async def main() -> None:
        go_on = asyncio.Event()

        async def handler(request: bytes, context: Any) -> bytes:
            await go_on.wait()
            context.caller()
            return request

        async with memory_hub() as hub:
            server = hub.server(_ADDRESS)
            handlers = make_handlers({"uu:Call": handler})
            server.add_registered_method_handlers("test.Service", handlers)
            await server.start()
            channel = hub.channel(_ADDRESS, callbacks=[(_add_listener, Listener())])
            running = asyncio.ensure_future(Stub(channel).unary_unary("Call")(b"1"))
            await asyncio.sleep(1)
            with hub.cut_off(server):
                go_on.set()
                await asyncio.sleep(1)
            assert await running == b"1"
            await asyncio.sleep(10)
            for peer in (server, channel):
                assert not peer.live.link.calls_open_count

    run_virtual(main)


def test_a_one_way_call_that_comes_after_its_deadline_does_not_run() -> None:
    """It was on its way when its caller was told that nobody had confirmed it in time."""

    async def main() -> None:
        host = Host()
        async with memory_hub() as hub:
            server = hub.server(_ADDRESS)
            handlers = make_handlers({"uu:Take": host.take})
            server.add_registered_method_handlers("test.Service", handlers)
            await server.start()
            channel = hub.channel(_ADDRESS)
            await channel.channel_ready()
            take = Stub(channel).unary_unary("Take")
            await take(b"0")
            hub.carrier(channel).cut_after(1, direction="outgoing", is_delivered=False)
            lost = take(b"1", metadata=[("relay-confirm", "hub")], timeout=2)
            while channel.live.carrier is not None:
                await asyncio.sleep(0)
            with hub.cut_off(channel), pytest.raises(grpc.aio.AioRpcError) as caught:
                await lost
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await take(b"2", metadata=[("relay-confirm", "hub")]) == b""
            await asyncio.sleep(10)
            assert host.put == [0, 2]

    run_virtual(main)


@pytest.mark.parametrize("keepalive_interval_s", [1.0, 10.0])
def test_what_is_idle_stays(keepalive_interval_s: float) -> None:
    """A session and a line without a call for thousands of intervals; then both ends call."""

    async def main() -> None:
        host, listener = Host(), Listener()
        limits = replace(DEFAULT_LIMITS, keepalive_interval_s=keepalive_interval_s)
        async with memory_hub(limits=limits) as hub:
            server = hub.server(_ADDRESS)
            behaviors = {"uu:Keep": host.keep, "uu:Take": host.take}
            server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
            await server.start()
            channel = hub.channel(_ADDRESS, callbacks=[(_add_listener, listener)])
            await Stub(channel).unary_unary("Keep")(b"")
            async with channel.session() as session:
                await Stub(session).unary_unary("Keep")(b"")
                links = [server.live.link, channel.live.link]
                await asyncio.sleep(5_000 * keepalive_interval_s)
                assert session.state is host.sessions[1].state is SessionState.OPENED
                await asyncio.gather(
                    Stub(session).unary_unary("Take")(b"1"),
                    *(stub.unary_unary("Tell")(b"2") for stub in host.stubs),
                )
                assert [server.live.link, channel.live.link] == links
                assert [link.attempt for link in links] == [0, 0]
            assert host.put == [1]
            assert listener.heard == [2, 2]
            host.stubs.clear()

    run_virtual(main)
