"""
Goal: a hub that stops tells plain gRPC clients the truth, and lets them finish first.

Method: a hub in this process, to see when its links are over, with a host behind it and grpcio's
own channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from relayrpc.limits import KIB, MIB
from tests.support.relay import ADDRESS, Relay, Stub, running_relay
from tests.support.until import until


pytestmark = pytest.mark.integration

AT = (("relay-address", ADDRESS),)


class Handlers:
    """Handlers that go on when they are told to."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_go_on = asyncio.Event()

    def behaviors(self) -> dict[str, Any]:
        return {"uu:Wait": self.wait, "us:Large": self.large, "su:Join": self.join}

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.started.set()
        await self.may_go_on.wait()
        return request

    async def large(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.started.set()
        yield bytes(MIB)

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        received = []
        async for request in requests:
            self.started.set()
            received.append(request)
        return b"".join(received)


def channel_of(relay: Relay) -> grpc.aio.Channel:
    # Takes 64 KiB ahead of its reader, and never more.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * KIB)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{relay.hub.grpc_port}", options=options)


async def test_running_calls_finish_while_the_hub_drains() -> None:
    handlers = Handlers()
    async with running_relay(handlers.behaviors()) as relay, channel_of(relay) as channel:
        stub = Stub(channel)
        joined = stub.stream_unary("Join")(metadata=AT)
        await joined.write(b"a")
        await handlers.started.wait()
        handlers.started.clear()
        call = stub.unary_unary("Wait")(b"x", metadata=AT)
        await handlers.started.wait()
        draining = asyncio.create_task(relay.hub.drain())
        await until(lambda: relay.hub.sessions.is_draining)
        await joined.write(b"b")
        await joined.done_writing()
        assert await joined == b"ab"
        handlers.may_go_on.set()
        assert await call == b"x"
        await draining


async def test_client_that_reads_slowly_gets_all_of_it_while_the_hub_drains() -> None:
    """The host has ended the call; what the client has yet to read is at the hub."""
    handlers = Handlers()
    async with running_relay(handlers.behaviors()) as relay, channel_of(relay) as channel:
        call = Stub(channel).unary_stream("Large")(b"", metadata=AT)
        await handlers.started.wait()
        draining = asyncio.create_task(relay.hub.drain())
        await until(lambda: relay.hub.sessions.is_draining and not relay.hub.sessions.table.links)
        assert await call.read() == bytes(MIB)
        assert await call.read() is grpc.aio.EOF
        await draining


@pytest.mark.parametrize("is_drained", [False, True])
async def test_call_that_the_hub_ends_is_said_to_have_run(is_drained: bool) -> None:
    handlers = Handlers()
    async with running_relay(handlers.behaviors()) as relay, channel_of(relay) as channel:
        call = Stub(channel).unary_unary("Wait")(b"x", metadata=AT)
        await handlers.started.wait()
        if is_drained:
            # Its time is over at once.
            draining = asyncio.create_task(relay.hub.drain())
            await until(lambda: relay.hub.sessions.is_draining)
            draining.cancel()
        await relay.hub.aclose()
        with pytest.raises(grpc.aio.AioRpcError, match="the hub stopped") as told:
            await call
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        trailing = told.value.trailing_metadata()
        assert trailing["relay-origin"] == "hub"
        assert trailing["relay-may-have-executed"] == "true"
        assert trailing["grpc-retry-pushback-ms"] == "-1"
