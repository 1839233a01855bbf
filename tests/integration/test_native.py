"""
Goal: a plain gRPC client calls the hub as if it were the service: shapes, endings, metadata.

Method: a real hub, a host behind it, and grpcio's own channel on the hub's gRPC port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.hub.observer import HubObserver
from relayrpc.limits import Limits
from tests.support.aio_sides import serving_aio
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Relay, Stub, running_hub, running_relay
from tests.support.tcp_proxy import TCPProxy


pytestmark = pytest.mark.integration

AT = (("relay-address", "contoso/test"),)


class Service:
    """What the tests call; it notes what happens to its handlers."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.received: list[bytes] = []
        self.metadata: list[tuple[str, Any]] = []

    def behaviors(self) -> dict[str, Any]:
        return {
            "uu:Echo": self.echo,
            "uu:Fail": self.fail,
            "uu:Wait": self.wait,
            "us:Count": self.count,
            "us:CountThenWait": self.count_then_wait,
            "us:Flood": self.flood,
            "su:Join": self.join,
            "ss:Each": self.each,
        }

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.metadata = [(key, value) for key, value in context.invocation_metadata()]
        await context.send_initial_metadata((("begin", "1"), ("begin-bin", b"\x00\xff")))
        context.set_trailing_metadata((("end", "2"), ("end", "3")))
        return request + context.peer().encode()

    async def fail(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x09"),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "näh", (("why", "so"),))
        return b""

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return b""

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    async def count_then_wait(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"0"
        await self.wait(request, context)

    async def flood(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(16 * 1024)
        finally:
            self.cancelled.set()

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            async for request in requests:
                self.received.append(request)
                self.started.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.received.append(b"complete")
        return b"".join(self.received[:-1])

    async def each(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


@contextlib.asynccontextmanager
async def native(service: Service, options: Any = None) -> AsyncIterator[tuple[Relay, Stub]]:
    async with (
        running_relay(service.behaviors()) as relay,
        grpc.aio.insecure_channel(f"127.0.0.1:{relay.hub.grpc_port}", options) as channel,
    ):
        yield relay, Stub(channel)


async def test_unary_call_with_metadata_both_ways() -> None:
    service = Service()
    async with native(service) as (_, stub):
        sent = (*AT, ("x", "1"), ("x", "2"), ("y-bin", b"\x00\x01"))
        call = stub.unary_unary("Echo")(b"hello", metadata=sent)
        answer = await call
        assert answer.startswith(b"helloipv4:127.0.0.1:"), "the host sees the client's own address"
        # Order counts for one key only.
        begin = await call.initial_metadata()
        assert begin["begin"] == "1"
        assert begin["begin-bin"] == b"\x00\xff"
        assert list((await call.trailing_metadata()).get_all("end")) == ["2", "3"]
        sent_on = [entry for entry in service.metadata if entry[0] != "user-agent"]
        assert sent_on == [("x", "1"), ("x", "2"), ("y-bin", b"\x00\x01")]


async def test_handler_sees_the_user_agent_that_a_server_called_directly_sees() -> None:
    service = Service()
    options = [("grpc.primary_user_agent", "inventory/2")]
    told = []
    direct = serving_aio("direct", service.behaviors(), channel_options={"options": options})
    async with direct as channel:
        await Stub(channel).unary_unary("Echo")(b"")
        told.append([value for key, value in service.metadata if key == "user-agent"])
    async with native(service, options) as (_, stub):
        await stub.unary_unary("Echo")(b"", metadata=AT)
        told.append([value for key, value in service.metadata if key == "user-agent"])
    assert told[0] == told[1]
    assert told[0][0].startswith("inventory/2 grpc-python-asyncio/")


async def test_metadata_beyond_the_bound_is_refused() -> None:
    async with native(Service()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.unary_unary("Echo")(b"", metadata=(*AT, ("k", "x" * 16_300)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await stub.unary_unary("Echo")(b"", metadata=(*AT, ("k", "x" * 15_000)))


async def test_streams_of_every_shape() -> None:
    async with native(Service()) as (_, stub):
        counted = stub.unary_stream("Count")(b"300", metadata=AT)
        assert [int(message) async for message in counted] == list(range(300))

        async def letters() -> AsyncIterator[bytes]:
            for letter in (b"a", b"b", b"c"):
                yield letter

        assert await stub.stream_unary("Join")(letters(), metadata=AT) == b"abc"
        both = stub.stream_stream("Each")(metadata=AT)
        for letter in (b"a", b"b"):
            await both.write(letter)
            assert await both.read() == letter.upper()
        await both.done_writing()
        assert await both.read() is grpc.aio.EOF
        assert await both.code() is grpc.StatusCode.OK


async def test_large_messages_pass() -> None:
    async with running_relay(Service().behaviors()) as relay:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        target = f"127.0.0.1:{relay.hub.grpc_port}"
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            large = bytes(20 * 1024 * 1024)
            answer = await Stub(channel).unary_unary("Echo")(large, metadata=AT)
            assert answer.startswith(large)


async def test_status_of_the_handler_arrives_whole() -> None:
    async with native(Service()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.unary_unary("Fail")(b"", metadata=AT)
        assert told.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert told.value.details() == "näh"
        trailing = told.value.trailing_metadata()
        assert trailing["why"] == "so"
        assert trailing["grpc-retry-pushback-ms"] == "-1"


async def test_call_nobody_serves_says_that_nothing_ran() -> None:
    async with native(Service()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.unary_unary("Echo")(b"", metadata=(("relay-address", "nowhere"),))
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "nowhere" in told.value.details()
        trailing = told.value.trailing_metadata()
        assert trailing["relay-may-have-executed"] == "false"
        assert trailing["relay-origin"] == "hub"
        assert "grpc-retry-pushback-ms" not in trailing


async def test_unknown_relay_key_is_refused_in_words() -> None:
    async with native(Service()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError, match="relay-adress") as told:
            await stub.unary_unary("Echo")(b"", metadata=(*AT, ("relay-adress", "x")))
        assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_deadline_reaches_the_handler() -> None:
    service = Service()
    async with native(service) as (_, stub):
        for timeout_s in DEADLINES_S:
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await stub.unary_unary("Wait")(b"", timeout=timeout_s, metadata=AT)
            assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if service.started.is_set():
                break
        await service.cancelled.wait()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_cancel_reaches_the_handler(kind: str) -> None:
    service = Service()
    async with native(service) as (_, stub):
        method = "Wait" if kind == "unary_unary" else "CountThenWait"
        call = getattr(stub, kind)(method)(b"", metadata=AT)
        if kind == "unary_stream":
            assert await call.read() == b"0"
        # A unary call begins to run when it is created.
        await service.started.wait()
        call.cancel()
        await service.cancelled.wait()


async def test_cancelled_requests_are_not_taken_for_complete() -> None:
    """They end as if they were, and gRPC says a moment later that they are not: a race each."""
    service = Service()
    async with native(service) as (_, stub):
        for _ in range(60):
            service.started.clear()
            service.cancelled.clear()
            service.received.clear()
            call = stub.stream_unary("Join")(metadata=AT)
            await call.write(b"first")
            await service.started.wait()
            call.cancel()
            await service.cancelled.wait()
            assert service.received == [b"first"]


async def test_lost_host_is_told_with_what_may_have_run() -> None:
    service = Service()
    async with native(service) as (relay, stub):
        call = stub.unary_unary("Wait")(b"", metadata=AT)
        await service.started.wait()
        await relay.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await call
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        assert told.value.trailing_metadata()["grpc-retry-pushback-ms"] == "-1"


async def test_refusal_by_the_host_says_that_nothing_ran() -> None:
    async with native(Service()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError, match="Method not found!") as told:
            await stub.unary_unary("Nothing")(b"", metadata=AT)
        assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED
        trailing = told.value.trailing_metadata()
        assert trailing["relay-may-have-executed"] == "false"
        assert trailing["relay-origin"] == "host"


@pytest.mark.parametrize("is_drained", [True, False])
async def test_hub_that_stops_says_so(is_drained: bool) -> None:
    service = Service()
    async with running_hub(limits=Limits(drain_timeout_s=0.05)) as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/contoso/test")
        server.add_registered_method_handlers(
            "test.Service", {"Wait": grpc.unary_unary_rpc_method_handler(service.wait)}
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            call = Stub(channel).unary_unary("Wait")(b"", metadata=AT)
            await service.started.wait()
            await (hub.drain() if is_drained else hub.aclose())
            with pytest.raises(grpc.aio.AioRpcError, match="the hub stopped") as told:
                await call
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        trailing = told.value.trailing_metadata()
        assert trailing["relay-may-have-executed"] == "true"
        assert trailing["relay-origin"] == "hub"
        assert trailing["grpc-retry-pushback-ms"] == "-1"
        await service.cancelled.wait()
        await server.stop(0)


async def test_client_that_leaves_within_a_stream_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service()
    async with running_relay(service.behaviors()) as relay, TCPProxy(relay.hub.grpc_port) as proxy:
        # Else its window grows with the stream.
        options = [("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options) as channel:
            call = Stub(channel).unary_stream("Flood")(b"", metadata=AT)
            await call.read()
            proxy.cut()
            await service.cancelled.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_handler_of_a_client_that_falls_silent_is_cancelled() -> None:
    """It has calls open and no link: the hub's gRPC port pings it."""
    service = Service()
    async with (
        running_hub(limits=Limits(keepalive_interval_s=0.2)) as hub,
        TCPProxy(hub.grpc_port) as proxy,
    ):
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/contoso/test")
        server.add_registered_method_handlers(
            "test.Service", {"Wait": grpc.unary_unary_rpc_method_handler(service.wait)}
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            call = Stub(channel).unary_unary("Wait")(b"", metadata=AT)
            await service.started.wait()
            proxy.stall()
            await service.cancelled.wait()
            call.cancel()
        await server.stop(0)


async def test_hosts_without_a_path_are_called_by_their_service() -> None:
    async with running_hub() as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}")

        async def echo(request: bytes, context: Any) -> bytes:
            return request

        server.add_registered_method_handlers(
            "test.Service", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            assert await Stub(channel).unary_unary("Echo")(b"x") == b"x"
        await server.stop(None)


async def test_client_that_is_idle_gives_its_link_up_and_gets_another() -> None:
    ended = asyncio.Semaphore(0)

    class Watch(HubObserver):
        def link_ended(self, link: Any, error: Any) -> None:
            if link.peer_identity == "$grpc":
                ended.release()

    async with (
        running_hub(limits=Limits(native_idle_s=0.05)) as hub,
        grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel,
    ):
        hub.sessions.observers.add(Watch())
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError, match="no host listens"):
                await Stub(channel).unary_unary("Echo")(b"", metadata=AT)
            await ended.acquire()


async def test_too_many_calls_are_refused() -> None:
    service = Service()
    async with running_hub(limits=Limits(native_calls_max=1)) as hub:
        server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/contoso/test")
        server.add_registered_method_handlers(
            "test.Service", {"Wait": grpc.unary_unary_rpc_method_handler(service.wait)}
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            stub = Stub(channel)
            first = stub.unary_unary("Wait")(b"", metadata=AT)
            await service.started.wait()
            with pytest.raises(grpc.aio.AioRpcError, match="calls of gRPC clients") as told:
                await stub.unary_unary("Wait")(b"", metadata=AT)
            assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            first.cancel()
        await server.stop(0)
