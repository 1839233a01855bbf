"""
Goal: calls with a dedupe key run once for whoever calls and whatever serves them: plain gRPC
clients through the hub's gRPC port, and blocking programs at both ends.

Method: a real hub; one key, several calls, one of whose clients vanishes in the middle.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
from tests.support.blocking import HubThread
from tests.support.relay import ADDRESS, Stub, running_relay


pytestmark = pytest.mark.integration

KEY = (("relay-dedupe-key", "invoice-7"),)
AT = (("relay-address", ADDRESS), *KEY)


async def test_plain_clients_share_the_one_run_of_a_key() -> None:
    """The first one vanishes while the handler runs; what it had asked for goes on."""
    ran: list[bytes] = []
    started, let_go = asyncio.Event(), asyncio.Event()

    async def pay(request: bytes, _context: Any) -> bytes:
        ran.append(request)
        started.set()
        await let_go.wait()
        return b"paid"

    async with running_relay({"uu:Pay": pay}) as relay:
        target = f"127.0.0.1:{relay.hub.grpc_port}"
        async with grpc.aio.insecure_channel(target) as first:
            lost = asyncio.ensure_future(Stub(first).unary_unary("Pay")(b"7", metadata=AT))
            await started.wait()
        with pytest.raises(asyncio.CancelledError):
            await lost
        async with grpc.aio.insecure_channel(target) as second:
            waiting = Stub(second).unary_unary("Pay")(b"7", metadata=AT)
            let_go.set()
            assert await waiting == b"paid"
            assert await Stub(second).unary_unary("Pay")(b"7", metadata=AT) == b"paid"
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await Stub(second).unary_unary("Pay")(b"8", metadata=AT)
            assert told.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert ran == [b"7"]


def test_blocking_handlers_are_run_once_too(relay_hub: HubThread) -> None:
    ran: list[bytes] = []
    started, let_go = threading.Event(), threading.Event()

    def pay(request: bytes, context: grpc.ServicerContext) -> bytes:
        ran.append(request)
        context.send_initial_metadata((("begin", "1"),))
        context.set_trailing_metadata((("end", "2"),))
        started.set()
        let_go.wait()
        return b"paid"

    url = relay_hub.url("contoso/dedupe")
    server = relayrpc.server(url)
    handlers = {"Pay": grpc.unary_unary_rpc_method_handler(pay)}
    server.add_registered_method_handlers("test.Service", handlers)
    server.start()
    with relayrpc.channel(url) as channel:
        method = channel.unary_unary("/test.Service/Pay")
        calls = [method.future(b"7", metadata=KEY) for _ in range(3)]
        started.wait()
        let_go.set()
        assert [call.result() for call in calls] == [b"paid"] * 3
        answer, call = method.with_call(b"7", metadata=KEY)
        assert answer == b"paid"
        assert ("begin", "1") in call.initial_metadata()
        assert ("end", "2") in call.trailing_metadata()
    server.stop(None).wait()
    assert ran == [b"7"]
