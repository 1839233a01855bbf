"""
Goal: a blocking caller is called back with plain handlers, on threads that may call.

Method: hosts on the loop of a hub on a thread of its own, and blocking callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.errors import UsageError
from tests.support.blocking import HubThread
from tests.support.relay import Stub, make_handlers


pytestmark = pytest.mark.integration

EVENTS = "test.Events"


class Listener:
    """What a caller serves."""

    def __init__(self) -> None:
        self.channel: Any = None
        self.threads: set[str] = set()
        self.hanging = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.threads.add(threading.current_thread().name[:16])
        return b"heard " + request

    def count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def join(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"".join(requests)

    def echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        raise AssertionError

    def hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.ended.set)
        self.hanging.set()
        self.go_on.wait()
        return b""

    def ask(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer with what the host says to a call of one less."""
        depth = int(request)
        if not depth:
            return b"."
        reply: bytes = Stub(self.channel).unary_unary("Ask")(b"%d" % (depth - 1))
        return b"<" + reply


def add_listener(listener: Listener, server: grpc.Server) -> None:
    methods = {
        "uu:Tell": listener.tell,
        "us:Count": listener.count,
        "su:Join": listener.join,
        "ss:Echo": listener.echo,
        "uu:Fail": listener.fail,
        "uu:Hang": listener.hang,
        "uu:Ask": listener.ask,
    }
    server.add_registered_method_handlers(EVENTS, make_handlers(methods))


def events(channel: Any) -> Stub:
    return Stub(channel, EVENTS)


@contextlib.contextmanager
def hosting(hub: HubThread, **handlers: Callable[..., Any]) -> Iterator[None]:
    """Serve `async def` handlers as methods of `test.Service`, on the hub's loop."""

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, hub.loop).result()

    server = relayrpc.aio.server(hub.url())
    methods = {f"uu:{name}": handler for name, handler in handlers.items()}
    server.add_registered_method_handlers("test.Service", make_handlers(methods))
    run(server.start())
    try:
        yield
    finally:
        run(server.stop(None))


@contextlib.contextmanager
def calling(hub: HubThread, listener: Listener) -> Iterator[relayrpc.Channel]:
    with relayrpc.channel(hub.url(), callbacks=[(add_listener, listener)]) as channel:
        listener.channel = channel
        yield channel


# --- what a blocking caller serves ---


@pytest.mark.parametrize("in_session", [False, True])
def test_plain_handlers_of_all_shapes_are_called_back(
    relay_hub: HubThread, in_session: bool
) -> None:
    async def call(request: bytes, context: Any) -> bytes:
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
        return b"done"

    listener = Listener()
    with hosting(relay_hub, Call=call), calling(relay_hub, listener) as channel:
        if in_session:
            with channel.session() as session:
                assert Stub(session).unary_unary("Call")(b"") == b"done"
        else:
            assert Stub(channel).unary_unary("Call")(b"") == b"done"
    assert listener.threads == {"relayrpc-handler"}


def test_a_callback_may_call_the_host_that_makes_it(relay_hub: HubThread) -> None:
    """A, callback, A, callback, A, each waiting for the next."""

    async def ask(request: bytes, context: Any) -> bytes:
        return b">" + await context.callback(events).unary_unary("Ask")(request)

    with hosting(relay_hub, Ask=ask), calling(relay_hub, Listener()) as channel:
        assert Stub(channel).unary_unary("Ask")(b"4") == b"><><><><>."


def test_a_handler_is_told_that_its_callback_is_over(relay_hub: HubThread) -> None:
    async def call(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.aio.RpcError) as caught:
            await context.callback(events).unary_unary("Hang")(b"", timeout=0.05)
        return caught.value.code().name.encode()

    listener = Listener()
    with hosting(relay_hub, Call=call), calling(relay_hub, listener) as channel:
        assert Stub(channel).unary_unary("Call")(b"") == b"DEADLINE_EXCEEDED"
        listener.ended.wait()
        listener.go_on.set()


def test_closing_does_not_wait_for_a_handler_that_hangs(relay_hub: HubThread) -> None:
    over = threading.Event()

    async def call(request: bytes, context: Any) -> bytes:
        try:
            await context.callback(events).unary_unary("Hang")(b"")
        finally:
            over.set()
        return b""

    listener = Listener()
    with hosting(relay_hub, Call=call):
        with calling(relay_hub, listener) as channel:
            future = Stub(channel).unary_unary("Call").future(b"")
            listener.hanging.wait()
        assert future.code() is grpc.StatusCode.CANCELLED
        over.wait()
        listener.go_on.set()


def test_async_servicers_are_refused_at_once(relay_hub: HubThread) -> None:
    class Async(Listener):
        async def tell(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
            return b""

    with pytest.raises(UsageError, match=r"Tell is async; a blocking channel takes plain .* both"):
        relayrpc.channel(relay_hub.url(), callbacks=[(add_listener, Async())])
