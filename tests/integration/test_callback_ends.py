"""
Goal: a callback that was under way when its caller went may have run, and says so, whichever way
the caller went and whatever the callback belonged to; one that its host cancels is over at both.

Method: hosts and callers over a real hub on loopback; callbacks that run until they are cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.relay import Stub, make_handlers, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"


class Listener:
    """What a caller serves: callbacks that do not end."""

    def __init__(self) -> None:
        self.running_count = 0

    async def hang(self, request: bytes, context: Any) -> bytes:
        self.running_count += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running_count -= 1
        return b""


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    handlers = make_handlers({"uu:Hang": listener.hang})
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
