"""
Goal: a host calls back whoever called it, with ordinary stubs, all four shapes, and knows when the
caller is gone.

Method: hosts and callers over a real hub on loopback.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.endpoint.anchor import SESSION_METHOD
from relayrpc.errors import UsageError
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import link_pb2
from tests.support.relay import ADDRESS, Stub, make_handlers, peer_links, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"


class Listener:
    """What a caller serves."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def tell(self, request: bytes, context: Any) -> bytes:
        self.heard.append(request)
        return b"heard " + request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def hang(self, request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""


def add_listener(listener: Listener, server: grpc.aio.Server) -> None:
    handlers = make_handlers(
        {
            "uu:Tell": listener.tell,
            "us:Count": listener.count,
            "su:Join": listener.join,
            "ss:Echo": listener.echo,
            "uu:Fail": listener.fail,
            "uu:Hang": listener.hang,
        }
    )
    server.add_registered_method_handlers(EVENTS, handlers)


def events(channel: Any) -> Stub:
    return Stub(channel, EVENTS)


async def start_host(url: str, handler: Callable[..., Any]) -> relayrpc.aio.Server:
    server = relayrpc.aio.server(f"{url}/{ADDRESS}")
    server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": handler}))
    await server.start()
    return server


def calling(url: str, *listeners: Listener) -> relayrpc.aio.Channel:
    callbacks = [(add_listener, listener) for listener in listeners]
    return relayrpc.aio.channel(f"{url}/{ADDRESS}", callbacks=callbacks)


@pytest.mark.parametrize("in_session", [False, True])
async def test_all_shapes(in_session: bool) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        stub = context.callback(events)
        assert await stub.unary_unary("Tell")(b"1") == b"heard 1"
        assert [m async for m in stub.unary_stream("Count")(b"3")] == [b"0", b"1", b"2"]
        assert await stub.stream_unary("Join")(iter([b"a", b"b"])) == b"ab"
        sent = [b"x" * 100_000, b"", b"y"]
        assert [m async for m in stub.stream_stream("Echo")(iter(sent))] == sent
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.unary_unary("Fail")(b"")
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "no such thing",
        )
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.unary_unary("Hang")(b"", timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return b"done"

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        async with calling(url, Listener()) as channel:
            if in_session:
                async with channel.session() as session:
                    assert await Stub(session).unary_unary("Call")(b"") == b"done"
            else:
                assert await Stub(channel).unary_unary("Call")(b"") == b"done"
        await server.stop(0)


async def test_a_stub_is_of_use_until_its_caller_is_gone() -> None:
    kept: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        kept.append((context.caller(), context.callback(events)))
        return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        listener = Listener()
        async with calling(url, listener) as channel:
            await Stub(channel).unary_unary("Call")(b"")
            ((caller, stub),) = kept
            for number in range(5):
                await stub.unary_unary("Tell")(b"%d" % number)
            assert not caller.done()
        await caller.wait_gone()
        assert listener.heard == [b"0", b"1", b"2", b"3", b"4"]
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await stub.unary_unary("Tell")(b"5")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details().startswith("the caller is gone")
        assert not caught.value.may_have_executed
        await server.stop(0)


async def test_a_line_is_given_up_with_the_last_stub() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        await context.callback(events).unary_unary("Tell")(request)
        return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        async with calling(url, Listener()) as channel:
            for _ in range(50):
                await Stub(channel).unary_unary("Call")(b"x")
            await until(lambda: not channel.live.link.calls_open_count)
        await server.stop(0)


@pytest.mark.parametrize(
    ("listeners", "code", "details"),
    [
        (
            [],
            grpc.StatusCode.UNIMPLEMENTED,
            "this caller takes no callbacks: its channel was made without",
        ),
        ([Listener()], grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    ],
)
async def test_what_the_caller_does_not_serve(
    listeners: list[Listener], code: grpc.StatusCode, details: str
) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await Stub(context.caller(), "test.Others").unary_unary("Tell")(b"")
        return f"{caught.value.code().name} {caught.value.details()}".encode()

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        async with calling(url, *listeners) as channel:
            reply = await Stub(channel).unary_unary("Call")(b"")
        assert reply == f"{code.name} {details}".encode()
        await server.stop(0)


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_plain_client_is_not_called_back(in_session: bool) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await context.callback(events).unary_unary("Tell")(b"")
        assert not caught.value.may_have_executed
        return f"{caught.value.code().name} {caught.value.details()}".encode()

    async with running_hub() as hub:
        server = await start_host(f"ws://127.0.0.1:{hub.http_port}", handler)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel:
            metadata = [("relay-address", ADDRESS)]
            if in_session:
                opening = channel.stream_stream(f"/test.Service/{SESSION_METHOD}")
                session = opening(metadata=metadata)
                name = dict(await session.initial_metadata())["relay-session"]
                metadata = [("relay-session", name)]
            reply = await Stub(channel).unary_unary("Call")(b"", metadata=metadata)
        assert reply == (
            b"UNIMPLEMENTED this caller takes no callbacks: "
            b"it is a gRPC client without the relay's library"
        )
        await server.stop(0)
    gc.collect()


async def test_a_hub_that_drains_waits_for_callbacks_and_not_for_lines() -> None:
    stubs: list[Any] = []
    callers: list[Any] = []
    go_on = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        if request == b"wait":
            await go_on.wait()
        # Where the hub goes away already, there is no line to be had.
        callers.append(context.caller())
        stubs.append(context.callback(events))
        return request

    class SlowListener(Listener):
        async def hang(self, request: bytes, context: Any) -> bytes:
            self.heard.append(request)
            await go_on.wait()
            return request

    async with running_hub(limits=replace(DEFAULT_LIMITS, drain_timeout_s=3600.0)) as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        listener = SlowListener()
        async with calling(url, listener) as channel:
            call = Stub(channel).unary_unary("Call")
            await call(b"idle")
            await call(b"busy")
            running = call(b"wait")
            callback = stubs[1].unary_unary("Hang")(b"hung")
            await until(lambda: listener.heard == [b"hung"])
            draining = asyncio.create_task(hub.drain())
            await callers[0].wait_gone()
            assert not callers[1].done()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await stubs[1].unary_unary("Tell")(b"late")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not caught.value.may_have_executed
            go_on.set()
            assert await callback == b"hung"
            assert await running == b"wait"
            assert callers[2].done()
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await stubs[2].unary_unary("Tell")(b"later")
            assert caught.value.details() == (
                "the hub goes away by which the caller was reached"
            )
            await draining
        await server.stop(0)


async def test_error_handlers_of_a_channel_answer_for_callbacks() -> None:
    ends: list[tuple[Any, str]] = []
    asked: list[tuple[type[Exception], str]] = []

    class Gone(grpc.Status):
        code = grpc.StatusCode.NOT_FOUND
        details = "gone"
        trailing_metadata = ()

    def translate(error: Exception, context: Any) -> grpc.Status | None:
        asked.append((type(error), context.method))
        return Gone() if isinstance(error, KeyError) else None

    class FailingListener(Listener):
        async def fail(self, request: bytes, context: Any) -> bytes:
            raise {b"key": KeyError, b"value": ValueError}[request]("secret")

    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await context.callback(events).unary_unary("Fail")(request)
        ends.append((caught.value.code(), caught.value.details()))
        return b""

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        for tells in (False, True):
            async with relayrpc.aio.channel(
                f"{url}/{ADDRESS}",
                callbacks=[(add_listener, FailingListener())],
                error_handlers=[translate],
                include_exception_detail=tells,
            ) as channel:
                for request in (b"key", b"value"):
                    await Stub(channel).unary_unary("Call")(request)
        await server.stop(0)
    assert asked == 2 * [(KeyError, f"{EVENTS}/Fail"), (ValueError, f"{EVENTS}/Fail")]
    assert ends[::2] == 2 * [(grpc.StatusCode.NOT_FOUND, "gone")]
    assert [code for code, _ in ends[1::2]] == 2 * [grpc.StatusCode.UNKNOWN]
    assert ["secret" in details for _, details in ends[1::2]] == [False, True]


async def test_error_handlers_of_a_host_answer_for_what_its_channel_serves() -> None:
    def translate(error: Exception, context: Any) -> relayrpc.Fault[Any] | None:
        asked.append(context.method)
        return None

    class FailingListener(Listener):
        async def fail(self, request: bytes, context: Any) -> bytes:
            raise KeyError("secret")

    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await context.callback(events).unary_unary("Fail")(request)
        return str(caught.value.details()).encode()

    asked: list[str] = []
    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        peer = relayrpc.aio.server(
            f"{url}/peer", error_handlers=[translate], include_exception_detail=True
        )
        peer.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": handler}))
        await peer.start()
        channel = peer.channel(ADDRESS, callbacks=[(add_listener, FailingListener())])
        assert b"secret" in await Stub(channel).unary_unary("Call")(b"")
        await peer.stop(0)
        await server.stop(0)
    assert asked == [f"{EVENTS}/Fail"]


async def test_handler_of_a_one_way_call_calls_nobody_back() -> None:
    """And the calls of others on the host's link go on."""
    told: list[tuple[Any, bool]] = []

    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await context.callback(events).unary_unary("Tell")(request)
        told.append((caught.value.code(), caught.value.may_have_executed))
        return request

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        listener = Listener()
        async with calling(url, listener) as channel, calling(url) as other:
            call = Stub(channel).unary_unary("Call")
            await asyncio.gather(
                *(call(b"1", metadata=[("relay-confirm", "hub")]) for _ in range(20)),
                *(Stub(other).unary_unary("Call")(b"2") for _ in range(20)),
            )
            await until(lambda: len(told) == 40)
        assert listener.heard == []
        assert not any(may_have_executed for _, may_have_executed in told)
        await server.stop(0)


async def test_a_call_with_a_dedupe_key_calls_nobody_back() -> None:
    told: list[str] = []

    async def handler(request: bytes, context: Any) -> bytes:
        with pytest.raises(UsageError) as caught:
            context.caller()
        told.append(str(caught.value))
        return request

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        async with calling(url, Listener()) as channel:
            call = Stub(channel).unary_unary("Call")
            assert await call(b"x", metadata=[("relay-dedupe-key", "k")]) == b"x"
        await server.stop(0)
    assert len(told) == 1
    assert "dedupe key" in told[0]


async def test_closing_the_caller_of_a_session_is_for_the_callbacks_that_run() -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        caller = context.caller()
        running = caller.stub(events).unary_unary("Hang")(b"")
        await until(lambda: listener.hanging)
        await caller.close()
        assert running.cancelled()
        reply: bytes = await caller.stub(events).unary_unary("Tell")(request)
        return reply

    class HangingListener(Listener):
        hanging = False

        async def hang(self, request: bytes, context: Any) -> bytes:
            self.hanging = True
            return await super().hang(request, context)

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        listener = HangingListener()
        async with calling(url, listener) as channel, channel.session() as session:
            for number in (b"1", b"2"):
                assert await Stub(session).unary_unary("Call")(number) == b"heard " + number
        await server.stop(0)


async def test_waiting_for_a_caller_to_go_leaves_nothing_when_it_is_given_up() -> None:
    callers: list[Any] = []

    async def handler(request: bytes, context: Any) -> bytes:
        callers.append(context.caller())
        return request

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        async with calling(url, Listener()) as channel:
            await Stub(channel).unary_unary("Call")(b"")
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(callers[0].wait_gone(), 0.001)
            assert not callers[0]._reach._callbacks
        await callers[0].wait_gone()
        await server.stop(0)


@pytest.mark.parametrize("belongs_to", ["nothing", "a callback"])
async def test_a_caller_refuses_what_belongs_to_no_call_of_its_own(
    belongs_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hub sends that; so this one is made to."""
    ends: dict[Any, Any] = {}

    async def handler(request: bytes, context: Any) -> bytes:
        return await context.callback(events).unary_unary("Hang")(b"")

    async with running_hub() as hub:
        url = f"ws://127.0.0.1:{hub.http_port}"
        server = await start_host(url, handler)
        listener = Listener()
        async with calling(url, listener) as channel:
            running = Stub(channel).unary_unary("Call")(b"")
            await channel.channel_ready()
            link_id = channel.live.link.link_id
            (link,) = [link for link in peer_links(hub) if link.link_id == link_id]

            def callbacks() -> list[Any]:
                return [call for call in link._calls.values() if call.method == f"{EVENTS}/Hang"]

            await until(callbacks)
            forwarder = hub.sessions.forwarder
            ended = forwarder._call_ended

            def note(call: Any, frame: Any, has_metadata: bool) -> None:
                ends[call] = frame.end
                ended(call, frame, has_metadata)

            monkeypatch.setattr(forwarder, "_call_ended", note)
            call = link.open_call(
                f"{EVENTS}/Tell",
                "",
                shape=link_pb2.SHAPE_UNARY_UNARY,
                app=None,
                half_close=True,
                anchor=None if belongs_to == "nothing" else callbacks()[0],
                now_s=asyncio.get_running_loop().time(),
            )
            link.flush_soon()
            await until(lambda: call in ends)
            assert ends[call].status == grpc.StatusCode.UNIMPLEMENTED.value[0]
            assert ends[call].details == (
                "this caller is called back only by hosts that it has called"
            )
            assert ends[call].not_executed
            assert listener.heard == []
            running.cancel()
        await server.stop(0)
