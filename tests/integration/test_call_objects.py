"""
Goal: call objects, contexts, channel and server behave as grpc.aio's: metadata, styles, callbacks,
limits, life.

Method: small handlers behind a real hub.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.endpoint.handlers import MethodEntry
from relayrpc.errors import ConfigError, LinkRefusedError
from relayrpc.limits import Limits
from tests.support.aio_sides import ServeAio
from tests.support.relay import ADDRESS, Stub, running_hub, running_relay
from tests.support.tcp_proxy import TCPProxy
from tests.support.until import until


pytestmark = pytest.mark.integration


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_all(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


# --- metadata ---


async def test_metadata_arrives_both_ways(serve_aio: ServeAio) -> None:
    sent = (("k", "1"), ("other", "x"), ("k", "2"), ("raw-bin", b"\x00\xff"), ("raw-bin", b""))
    seen: list[Any] = []

    async def reflect(request: bytes, context: Any) -> bytes:
        seen.append(context.invocation_metadata())
        await context.send_initial_metadata((("i", "1"), ("i-bin", b"\x01"), ("i", "2")))
        context.set_trailing_metadata(sent)
        return b""

    async with serve_aio({"uu:M": reflect}) as channel:
        call = Stub(channel).unary_unary("M")(b"", metadata=sent)
        initial = await call.initial_metadata()
        assert initial.get_all("i") == ["1", "2"]
        assert initial["i-bin"] == b"\x01"
        await call
        trailing = await call.trailing_metadata()
        assert trailing.get_all("k") == ["1", "2"]
        assert trailing.get_all("raw-bin") == [b"\x00\xff", b""]
    (invocation,) = seen
    # gRPC keeps the order of equal keys.
    received = [entry for entry in invocation if entry.key != "user-agent"]
    assert sorted(received, key=lambda entry: entry.key) == sorted(sent, key=lambda pair: pair[0])


async def test_initial_metadata_arrives_before_the_first_message(serve_aio: ServeAio) -> None:
    go_on = asyncio.Event()

    async def begin(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("i", "1"),))
        await go_on.wait()
        yield b"x"

    async with serve_aio({"us:M": begin}) as channel:
        call = Stub(channel).unary_stream("M")(b"")
        assert await call.initial_metadata() == (("i", "1"),)
        go_on.set()
        assert [message async for message in call] == [b"x"]


async def test_call_without_initial_metadata_has_an_empty_one(serve_aio: ServeAio) -> None:
    async with serve_aio({"uu:M": echo, "us:C": count}) as channel:
        stub = Stub(channel)
        assert await stub.unary_unary("M")(b"").initial_metadata() == ()
        assert await stub.unary_stream("C")(b"1").initial_metadata() == ()


async def test_wrong_metadata_raises_at_the_call() -> None:
    async with running_relay({"uu:M": echo}) as relay:
        method = Stub(relay.channel).unary_unary("M")
        with pytest.raises(grpc.aio.InternalError):
            method(b"", metadata=(("Upper", "x"),))
        with pytest.raises(TypeError):
            method(b"", metadata=(("x-bin", "text"),))
        with pytest.raises(grpc.aio.UsageError, match="relay-nonsense"):
            method(b"", metadata=(("relay-nonsense", "i"),))
        with pytest.raises(grpc.aio.UsageError, match="at most 128 bytes"):
            method(b"", metadata=(("relay-instance", "i" * 129),))
        assert not relay.channel.calls


async def test_method_that_no_link_can_carry_is_refused_alone() -> None:
    """The hub would end the link for it, with every call on it."""
    async with running_relay({"uu:M": echo}) as relay:
        for method in ("", "/", "/test.Service/" + "x" * 500, b"/"):
            with pytest.raises(ConfigError, match=r'write "/pkg\.Service/Method"'):
                relay.channel.unary_unary(method)
        assert await relay.channel.unary_unary(b"/test.Service/M")(b"x") == b"x"


async def test_too_much_metadata_ends_the_call() -> None:
    async def too_much(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "x" * 17_000),))
        return b""

    async with running_relay({"uu:M": echo, "uu:T": too_much}) as relay:
        stub = Stub(relay.channel)
        with pytest.raises(relayrpc.aio.RpcError, match="is over 16384 bytes") as caught:
            await stub.unary_unary("M")(b"", metadata=(("k", "x" * 17_000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(relayrpc.aio.RpcError, match="is over 16384 bytes") as caught:
            await stub.unary_unary("T")(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_relay_address_names_another_address() -> None:
    async with running_relay({"uu:M": echo}) as relay:
        hub_url = f"ws://127.0.0.1:{relay.hub.http_port}/elsewhere"
        async with relayrpc.aio.channel(hub_url) as channel:
            method = Stub(channel).unary_unary("M")
            with pytest.raises(relayrpc.aio.RpcError):
                await method(b"x")
            assert await method(b"x", metadata=(("relay-address", "contoso/test"),)) == b"x"


# --- call objects ---


async def test_calls_are_grpcs_own_kinds() -> None:
    async with running_relay({"uu:M": echo, "us:C": count, "ss:E": echo_all}) as relay:
        assert isinstance(relay.channel, grpc.aio.Channel)
        assert isinstance(relay.server, grpc.aio.Server)
        stub = Stub(relay.channel)
        call = stub.unary_unary("M")(b"")
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert isinstance(stub.unary_stream("C")(b"1"), grpc.aio.UnaryStreamCall)
        assert isinstance(stub.stream_unary("M")(), grpc.aio.StreamUnaryCall)
        assert isinstance(stub.stream_stream("E")(), grpc.aio.StreamStreamCall)
        await call
        assert "status = StatusCode.OK" in repr(call)


async def test_unary_call_can_be_awaited_again_and_by_several(serve_aio: ServeAio) -> None:
    async with serve_aio({"uu:M": echo}) as channel:
        call = Stub(channel).unary_unary("M")(b"x")

        async def wait() -> bytes:
            response: bytes = await call
            return response

        assert await asyncio.gather(wait(), wait()) == [b"x", b"x"]
        assert await call == b"x"
        assert call.done()
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert await call.debug_error_string() == ""
        await call.wait_for_connection()


async def test_done_callbacks_run_once_with_the_call(serve_aio: ServeAio) -> None:
    async with serve_aio({"uu:M": echo, "us:C": count}) as channel:
        stub = Stub(channel)
        for call in (stub.unary_unary("M")(b""), stub.unary_stream("C")(b"0")):
            told: list[Any] = []
            during, after = asyncio.Event(), asyncio.Event()
            call.add_done_callback(told.append)
            call.add_done_callback(lambda _, event=during: event.set())
            await call.code()
            await during.wait()
            call.add_done_callback(lambda _, event=after: event.set())
            await after.wait()
            assert told == [call]


async def test_reading_styles_do_not_mix(serve_aio: ServeAio) -> None:
    async with serve_aio({"us:C": count}) as channel:
        method = Stub(channel).unary_stream("C")
        call = method(b"1000000")
        await call.read()
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            call.__aiter__()
        call = method(b"1000000")
        await anext(aiter(call))
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            await call.read()
        call.cancel()


async def test_writing_follows_grpcs_rules(serve_aio: ServeAio) -> None:
    async with serve_aio({"ss:E": echo_all}) as channel:
        method = Stub(channel).stream_stream("E")
        call = method(iter([b"a"]))
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            await call.write(b"b")
        with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
            await call.done_writing()
        call = method()
        await call.write(b"a")
        await call.done_writing()
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError, match="half closed"):
            await call.write(b"b")
        assert await call.read() == b"a"
        assert await call.read() is grpc.aio.EOF
        with pytest.raises(asyncio.InvalidStateError, match="already finished"):
            await call.write(b"b")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_failing_request_iterator_cancels_the_call(serve_aio: ServeAio) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("broken")

    async with serve_aio({"ss:E": echo_all}) as channel:
        call = Stub(channel).stream_stream("E")(requests())
        assert await call.code() is grpc.StatusCode.CANCELLED


async def test_writer_waits_for_a_reader_that_does_not_read() -> None:
    read_on = asyncio.Event()
    sizes: list[int] = []

    async def read_late(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await read_on.wait()
        sizes.extend([len(request) async for request in requests])
        return b""

    async with running_relay({"su:M": read_late}) as relay:
        call = Stub(relay.channel).stream_unary("M")()
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(200):
                await call.write(bytes(10_000))
                written += 1
            await call.done_writing()

        writing = asyncio.create_task(write())
        # Another call's round trip gives the stream every chance to go on.
        for _ in range(20):
            with pytest.raises(relayrpc.aio.RpcError):
                await Stub(relay.channel).unary_unary("None")(b"")
        assert written < 100
        read_on.set()
        assert await call == b""
        await writing
    assert sizes == [10_000] * 200


async def test_early_end_wakes_a_writer_that_waits() -> None:
    async def refuse(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await anext(aiter(requests))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return b""

    async with running_relay({"su:M": refuse}) as relay:
        call = Stub(relay.channel).stream_unary("M")()
        with pytest.raises((relayrpc.aio.RpcError, asyncio.InvalidStateError)):
            while True:
                await call.write(bytes(100_000))
        with pytest.raises(relayrpc.aio.RpcError, match="enough"):
            await call


# --- channel ---


async def test_channel_tells_its_state() -> None:
    state = grpc.ChannelConnectivity
    async with running_relay({"uu:M": echo}) as relay:
        channel = relay.channel
        assert channel.get_state() is state.IDLE
        await channel.channel_ready()
        assert channel.get_state() is state.READY
        changed = asyncio.create_task(channel.wait_for_state_change(state.READY))
        await asyncio.sleep(0)
        await channel.close()
        await changed
        assert channel.get_state() is state.SHUTDOWN
        with pytest.raises(ValueError, match="grace must be non-negative"):
            await channel.close(-1)


async def test_what_cannot_be_honoured_raises_at_once() -> None:
    url = "ws://127.0.0.1:1/a"
    with pytest.raises(ConfigError, match="cannot use the service config: no JSON"):
        relayrpc.aio.channel(url, options=(("grpc.service_config", "{"),))
    with pytest.raises(ValueError, match="must be UnaryUnaryClientInterceptor or"):
        relayrpc.aio.channel(url, interceptors=[object()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="must be ServerInterceptor"):
        relayrpc.aio.server(url, interceptors=[object()])  # type: ignore[list-item]
    server = relayrpc.aio.server(url)
    with pytest.raises(grpc.aio.UsageError, match="opens no port: it dials out"):
        server.add_insecure_port("[::]:50051")
    with pytest.raises(grpc.aio.UsageError, match="opens no port: it dials out"):
        server.add_secure_port("[::]:50051", None)
    with pytest.raises(grpc.aio.UsageError, match="serves nothing"):
        await server.start()


# --- server ---


async def test_calls_beyond_the_servers_limit_are_refused() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        started.set()
        await go_on.wait()
        return b"done"

    async with running_relay(
        {"uu:M": wait}, server_options={"maximum_concurrent_rpcs": 1}
    ) as relay:
        method = Stub(relay.channel).unary_unary("M")
        first = method(b"")
        await started.wait()
        with pytest.raises(relayrpc.aio.RpcError, match="Concurrent RPC limit") as caught:
            await method(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not caught.value.may_have_executed
        go_on.set()
        assert await first == b"done"
        assert await method(b"") == b"done"


async def test_stopping_with_grace_lets_a_call_finish_and_refuses_new_ones() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        started.set()
        await go_on.wait()
        return bytes(1_000_000)

    async with running_relay({"uu:M": wait}) as relay:
        method = Stub(relay.channel).unary_unary("M")
        first = method(b"")
        await started.wait()
        assert await relay.server.wait_for_termination(0)
        stopping = asyncio.create_task(relay.server.stop(60))
        router = relay.hub.sessions.forwarder.router
        await until(lambda: all(host.link.is_local for host in router.registrations))
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await method(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not caught.value.may_have_executed
        go_on.set()
        assert len(await first) == 1_000_000
        await stopping
        assert not await relay.server.wait_for_termination(60)


async def test_stopping_with_grace_lets_a_slow_caller_take_the_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The grace is for the whole call, not for its handler alone."""
    monkeypatch.setattr("relayrpc.endpoint.server._FLUSH_TIMEOUT_S", 0.0)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        started.set()
        await go_on.wait()
        return bytes(4_000_000)

    async with (
        running_relay({"uu:M": wait}) as relay,
        TCPProxy(relay.hub.http_port) as proxy,
        relayrpc.aio.channel(f"ws://127.0.0.1:{proxy.port}/{ADDRESS}") as channel,
    ):
        call = Stub(channel).unary_unary("M")(b"")
        await started.wait()
        proxy.stall()
        stopping = asyncio.create_task(relay.server.stop(60))
        go_on.set()
        await until(lambda: not relay.server._contexts)
        proxy.resume()
        assert len(await call) == 4_000_000
        await stopping


async def test_smaller_grace_ends_a_stop_that_waits() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async with running_relay({"uu:M": wait}) as relay:
        call = Stub(relay.channel).unary_unary("M")(b"")
        await started.wait()
        stopping = asyncio.create_task(relay.server.stop(600))
        await asyncio.sleep(0)
        await relay.server.stop(None)
        await stopping
        assert cancelled.is_set()
        with pytest.raises(relayrpc.aio.RpcError, match="the host stopped") as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.may_have_executed


async def test_server_starts_once() -> None:
    async with running_relay({"uu:M": echo}) as relay:
        with pytest.raises(grpc.aio.UsageError, match="once"):
            await relay.server.start()
        with pytest.raises(grpc.aio.UsageError, match="before the server is started"):
            relay.server.add_generic_rpc_handlers(())


async def test_server_that_is_replaced_says_so() -> None:
    options = {"instance": "host-1"}
    async with running_relay({"uu:M": echo}, server_options=options) as relay:
        other = relayrpc.aio.server(relay.url, instance="host-1")
        handler = grpc.unary_unary_rpc_method_handler(echo)
        other.add_registered_method_handlers("test.Service", {"M": handler})
        await other.start()
        with pytest.raises(LinkRefusedError):
            await relay.server.wait_for_termination()
        assert await Stub(relay.channel).unary_unary("M")(b"x") == b"x"
        await other.stop(None)


async def test_generic_handlers_serve() -> None:
    class Opaque(grpc.ServiceRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service_name(self) -> str:
            return "test.Opaque"

        def service(self, details: grpc.HandlerCallDetails) -> Any:
            assert dict(details.invocation_metadata)["k"] == "v"
            if details.method == "/test.Opaque/M":
                return grpc.unary_unary_rpc_method_handler(echo)
            return None

    def register(server: relayrpc.aio.Server) -> None:
        named = {"C": grpc.unary_stream_rpc_method_handler(count)}
        server.add_generic_rpc_handlers(
            (Opaque(), grpc.method_handlers_generic_handler("test.Service", named))
        )

    async with running_relay(register=register) as relay:
        opaque = Stub(relay.channel, "test.Opaque")
        metadata = (("k", "v"),)
        assert await opaque.unary_unary("M")(b"x", metadata=metadata) == b"x"
        with pytest.raises(relayrpc.aio.RpcError, match="Method not found!"):
            await opaque.unary_unary("N")(b"x", metadata=metadata)
        counting = Stub(relay.channel).unary_stream("C")(b"2")
        assert [message async for message in counting] == [b"0", b"1"]


async def test_generic_handler_without_a_service_is_refused() -> None:
    class Nameless(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return None

    server = relayrpc.aio.server("ws://127.0.0.1:1/a")
    with pytest.raises(grpc.aio.UsageError, match="does not name its service"):
        server.add_generic_rpc_handlers((Nameless(),))


def test_handler_kinds_are_told_apart() -> None:
    class Callable:
        async def __call__(self, request: bytes, context: Any) -> bytes:
            return request

    def plain(request: bytes, context: Any) -> bytes:
        return request

    make = grpc.unary_unary_rpc_method_handler
    assert MethodEntry(make(Callable())).is_async
    assert MethodEntry(make(echo)).is_async
    assert not MethodEntry(make(plain)).is_async


async def test_calls_of_one_link_are_bounded() -> None:
    started = asyncio.Semaphore(0)

    async def wait(request: bytes, context: Any) -> bytes:
        started.release()
        await asyncio.Event().wait()
        return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}/a"
        server = relayrpc.aio.server(url, limits=Limits(calls_open_max=3))
        handler = grpc.unary_unary_rpc_method_handler(wait)
        server.add_registered_method_handlers("test.Service", {"M": handler})
        await server.start()
        async with relayrpc.aio.channel(url) as channel:
            calls = [Stub(channel).unary_unary("M")(b"") for _ in range(3)]
            for _ in calls:
                await started.acquire()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await Stub(channel).unary_unary("M")(b"")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not caught.value.may_have_executed
        await server.stop(None)


async def test_channel_from_before_a_fork_is_refused_in_the_child() -> None:
    async with running_relay({"uu:M": echo}) as relay:
        method = Stub(relay.channel).unary_unary("M")
        await method(b"")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover  # not in the process that is measured
            try:
                method(b"")
                os.write(writer, b"no error")
            except grpc.aio.UsageError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)  # noqa: ASYNC222  # it exits at once
        assert os.read(reader, 1000).startswith(b"this channel was used before fork()")
        os.close(reader)
        assert await method(b"parent") == b"parent"
