"""
Goal: a callback that was under way when its caller went may have run, and says so, whichever way
the caller went and whatever the callback belonged to; one that its host cancels is over at both;
and no silence ends a session.

Method: hosts and callers over a real hub on loopback; callbacks that run until they are cancelled.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc import SessionState
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.relay import (
    ADDRESS,
    Stub,
    make_handlers,
    peer_links,
    running_hub,
    running_relay,
)
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"


class Listener:
    """What a caller serves: callbacks that do not end, and one that does."""

    def __init__(self) -> None:
        self.running_count = 0

    async def hang(self, request: bytes, context: Any) -> bytes:
        self.running_count += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running_count -= 1
        return b""

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    handlers = make_handlers({"uu:Hang": listener.hang, "uu:Echo": listener.echo})
    server.add_registered_method_handlers(EVENTS, handlers)


@pytest.mark.parametrize("in_session", [False, True])
@pytest.mark.parametrize("ending", ["channel closed", "link ended"])
async def test_a_callback_that_ran_when_its_caller_went_may_have_run(
    ending: str, in_session: bool
) -> None:
    kept: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        kept.append(context.callback(lambda channel: Stub(channel, EVENTS)))
        return b""

    listener = Listener()
    async with running_relay(
        {"uu:Call": handler}, channel_options={"callbacks": [(add_listener, listener)]}
    ) as relay:
        session = relay.channel.session() if in_session else None
        await Stub(session or relay.channel).unary_unary("Call")(b"")
        callback = kept[0].unary_unary("Hang")(b"")
        await until(lambda: listener.running_count)
        if ending == "channel closed":
            await relay.channel.close()
        else:
            await relay.channel.live.aclose()
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await callback
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed
        await until(lambda: not listener.running_count)
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await kept[0].unary_unary("Hang")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not caught.value.may_have_executed


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_callback_that_its_host_cancels_is_cancelled_at_the_caller(
    in_session: bool,
) -> None:
    kept: list[Any] = []
    told: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        stub = Stub(context.caller(), EVENTS)
        kept.append(stub.unary_unary("Hang")(b""))
        try:
            await kept[0]
        except asyncio.CancelledError:
            told.append((kept[0].cancelled(), await kept[0].code()))
        return b"goes on"

    listener = Listener()
    async with running_relay(
        {"uu:Call": handler}, channel_options={"callbacks": [(add_listener, listener)]}
    ) as relay:
        session = relay.channel.session() if in_session else None
        running = Stub(session or relay.channel).unary_unary("Call")(b"")
        await until(lambda: listener.running_count)
        assert kept[0].cancel()
        assert await running == b"goes on"
        assert told == [(True, grpc.StatusCode.CANCELLED)]
        await until(lambda: not listener.running_count)
        if session is not None:
            await session.close()


@pytest.mark.parametrize("how", ["abort", "block left by an error"])
async def test_aborting_a_session_ends_its_callbacks_and_no_others(how: str) -> None:
    kept: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        kept.append(Stub(context.caller(), EVENTS).unary_unary("Hang")(b""))
        return b""

    listener = Listener()
    async with running_relay(
        {"uu:Call": handler}, channel_options={"callbacks": [(add_listener, listener)]}
    ) as relay:
        session, other = relay.channel.session(), relay.channel.session()
        for channel in (session, other, relay.channel):
            await Stub(channel).unary_unary("Call")(b"")
        await until(lambda: listener.running_count == 3)
        if how == "abort":
            session.abort()
        else:
            with pytest.raises(ZeroDivisionError):
                async with session:
                    raise ZeroDivisionError
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await kept[0]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the caller aborted its session"
        assert caught.value.may_have_executed
        await until(lambda: listener.running_count == 2)
        assert not kept[1].done()
        assert not kept[2].done()
        other.abort()


@pytest.mark.parametrize("by_task", [False, True])
@pytest.mark.parametrize("in_call", [False, True])
async def test_a_callback_may_close_its_session(in_call: bool, by_task: bool) -> None:
    """It does not wait for the call that waits for it; the session is closed when that is over."""
    callbacks: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        callbacks.append(Stub(context.caller(), EVENTS).unary_unary("Bye")(b""))
        return await callbacks[0] if in_call else b""

    async def bye(request: bytes, context: Any) -> bytes:
        if by_task:
            await asyncio.gather(session.close())
        else:
            await session.close()
        assert session.state is not SessionState.CLOSED or not in_call
        return b"bye"

    def add(_: None, server: grpc.aio.Server) -> None:
        server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Bye": bye}))

    async with running_relay(
        {"uu:Call": handler}, channel_options={"callbacks": [(add, None)]}
    ) as relay:
        session = relay.channel.session()
        reply = await Stub(session).unary_unary("Call")(b"")
        assert reply == (b"bye" if in_call else b"")
        assert await callbacks[0] == b"bye"
        await until(lambda: session.state is SessionState.CLOSED and not len(relay.server.sessions))
        assert session.fault == ""


@pytest.mark.parametrize("in_session", [False, True])
@pytest.mark.parametrize("ending", ["channel closed", "server stopped"])
async def test_a_host_that_calls_over_its_own_link_is_called_back(
    ending: str, in_session: bool
) -> None:
    """Of two that are host and caller, each on one link, either calls the other back."""
    kept: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        stub = context.callback(lambda channel: Stub(channel, EVENTS))
        kept.append(stub)
        return await stub.unary_unary("Echo")(request)

    listener = Listener()
    async with running_relay({"uu:Call": handler}) as relay:
        url = f"ws://127.0.0.1:{relay.hub.http_port}"
        peer = relayrpc.aio.server(f"{url}/peer")
        handlers = make_handlers({"uu:Call": handler})
        peer.add_registered_method_handlers("test.Service", handlers)
        channel = peer.channel(ADDRESS, callbacks=[(add_listener, listener)])
        await peer.start()
        session = channel.session() if in_session else None
        assert await Stub(session or channel).unary_unary("Call")(b"a") == b"a"
        running = kept[0].unary_unary("Hang")(b"")
        await until(lambda: listener.running_count)
        # A channel of this server's that serves nothing is not called back.
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(peer.channel(ADDRESS)).unary_unary("Call")(b"b")
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        if ending == "channel closed":
            await channel.close()
        else:
            await peer.stop(1)
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await running
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed
        await until(lambda: not listener.running_count)
        await peer.stop(0)


async def test_an_idle_session_outlives_many_keepalive_intervals() -> None:
    """Nothing passes for so long but pings, which stand for both ends; then both call."""
    limits = replace(DEFAULT_LIMITS, keepalive_interval_s=0.1)
    kept: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        kept.append(context.caller())
        return request

    async with running_hub(limits=limits) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        server = relayrpc.aio.server(url, limits=limits)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": handler}))
        await server.start()
        callbacks = [(add_listener, Listener())]
        async with relayrpc.aio.channel(url, limits=limits, callbacks=callbacks) as channel:
            async with channel.session() as session:
                await Stub(session).unary_unary("Call")(b"")
                links = [server.live.link, channel.live.link]
                hub_links = {link.link_id: link for link in peer_links(hub)}
                for link in links:
                    ends = [link, hub_links[link.link_id]]
                    await until(lambda ends=ends: sum(end._ping_number for end in ends) > 10)
                assert await Stub(kept[0], EVENTS).unary_unary("Echo")(b"back") == b"back"
                assert await Stub(session).unary_unary("Call")(b"on") == b"on"
                assert [server.live.link, channel.live.link] == links
            assert session.fault == ""
        await server.stop(0)
