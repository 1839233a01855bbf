"""
Goal: however a call ends, both sides are told the truth, at once, in gRPC's own terms.

Method: handlers that end in every way, behind a real hub; events, never pauses, say what happened.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.errors import ConnectError
from tests.support.aio_sides import ServeAio
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Stub, running_hub, running_relay


pytestmark = pytest.mark.integration


class Watch:
    """Tells what became of a handler."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.done = asyncio.Event()
        self.is_told = False

    async def forever(self, request: Any, context: Any) -> bytes:
        context.add_done_callback(lambda _: self.done.set())
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_told = context.cancelled()
            self.cancelled.set()
            raise
        return b""

    async def stream_forever(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self.forever(request, context)


async def error_of(awaitable: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


# --- deadlines ---


async def test_deadline_ends_the_call_and_cancels_the_handler() -> None:
    watch = Watch()
    async with running_relay({"uu:M": watch.forever}) as relay:
        for timeout_s in DEADLINES_S:
            call = Stub(relay.channel).unary_unary("M")(b"", timeout=timeout_s)
            assert call.time_remaining() <= timeout_s
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert isinstance(error, TimeoutError)
            assert not call.cancelled()
            if watch.started.is_set():
                break
        assert error.may_have_executed
        await watch.cancelled.wait()
        assert watch.is_told
        await watch.done.wait()


async def test_deadline_that_has_passed_is_never_sent() -> None:
    async with running_relay({"uu:M": Watch().forever}) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("M")(b"", timeout=-1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "Deadline Exceeded"
    assert not error.may_have_executed


async def test_handler_sees_the_time_left(serve_aio: ServeAio) -> None:
    async def remaining(request: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    async with serve_aio({"uu:M": remaining}) as channel:
        method = Stub(channel).unary_unary("M")
        assert await method(b"") == b"None"
        # gRPC's core rounds up.
        assert 0 < float(await method(b"", timeout=60)) <= 61


async def test_deadline_of_a_stream_is_raised_after_its_messages(serve_aio: ServeAio) -> None:
    watch = Watch()
    async with serve_aio({"us:M": watch.stream_forever}) as channel:
        for timeout_s in DEADLINES_S:
            call = Stub(channel).unary_stream("M")(b"", timeout=timeout_s)
            messages: list[bytes] = []
            error = await error_of(_read_all(call, messages))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if messages:
                break
        assert messages == [b"first"]
        await watch.cancelled.wait()


async def _read_all(call: Any, messages: list[bytes]) -> None:
    while True:
        messages.append(await call.read())


# --- cancelling ---


async def test_cancel_reaches_the_handler(serve_aio: ServeAio) -> None:
    watch = Watch()
    async with serve_aio({"uu:M": watch.forever}) as channel:
        call = Stub(channel).unary_unary("M")(b"")
        await watch.started.wait()
        assert not call.done()
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        await watch.cancelled.wait()


async def test_cancelling_the_task_that_awaits_cancels_the_call(serve_aio: ServeAio) -> None:
    watch = Watch()
    async with serve_aio({"uu:M": watch.forever}) as channel:

        async def wait() -> None:
            await Stub(channel).unary_unary("M")(b"")

        task = asyncio.create_task(wait())
        await watch.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await watch.cancelled.wait()


async def test_cancelling_one_who_asks_for_the_code_leaves_the_call_alone(
    serve_aio: ServeAio,
) -> None:
    watch = Watch()
    async with serve_aio({"uu:M": watch.forever}) as channel:
        call = Stub(channel).unary_unary("M")(b"")
        await watch.started.wait()
        asking = asyncio.create_task(call.code())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not call.done()
        call.cancel()


@pytest.mark.parametrize("kind", ["us", "ss"])
async def test_dropped_stream_is_cancelled(kind: str) -> None:
    watch = Watch()
    async with running_relay({f"{kind}:M": watch.stream_forever}) as relay:
        stub = Stub(relay.channel)
        call = stub.unary_stream("M")(b"") if kind == "us" else stub.stream_stream("M")()
        async for message in call:
            assert message == b"first"
            break
        await watch.started.wait()
        del call
        gc.collect()
        await watch.cancelled.wait()


async def test_dropped_stream_unary_call_is_cancelled() -> None:
    watch = Watch()
    async with running_relay({"su:M": watch.forever}) as relay:
        call = Stub(relay.channel).stream_unary("M")()
        await call.write(b"x")
        await watch.started.wait()
        del call
        gc.collect()
        await watch.cancelled.wait()


async def test_cancelled_before_it_was_sent_never_reaches_the_host(serve_aio: ServeAio) -> None:
    seen = []

    async def record(request: bytes, context: Any) -> bytes:
        seen.append(request)
        return b""

    async with serve_aio({"uu:M": record}) as channel:
        method = Stub(channel).unary_unary("M")
        method(b"cancelled").cancel()
        await method(b"after")
    assert seen == [b"after"]


async def test_closing_the_channel_cancels_its_calls(serve_aio: ServeAio) -> None:
    watch = Watch()
    async with serve_aio({"uu:M": watch.forever}) as channel:
        call = Stub(channel).unary_unary("M")(b"")
        await watch.started.wait()
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(grpc.aio.UsageError, match=r"Channel is closed\."):
            Stub(channel).unary_unary("M")(b"")
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        await watch.cancelled.wait()


async def test_closing_the_channel_with_grace_lets_a_call_finish(serve_aio: ServeAio) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def finish(request: bytes, context: Any) -> bytes:
        started.set()
        await go_on.wait()
        return b"done"

    async with serve_aio({"uu:M": finish}) as channel:
        call = Stub(channel).unary_unary("M")(b"")
        await started.wait()
        closing = asyncio.create_task(channel.close(60))
        await asyncio.sleep(0)
        go_on.set()
        assert await call == b"done"
        await closing


# --- handlers that fail ---


async def _raise(request: Any, context: Any) -> bytes:
    raise ValueError("secret text")


def _raise_plainly(request: Any, context: Any) -> bytes:
    raise ValueError("secret text")


async def _raise_within(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"one"
    raise ValueError("secret text")


@pytest.mark.parametrize("behavior", [_raise, _raise_plainly])
async def test_exception_of_a_handler_stays_at_the_host(
    behavior: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_relay({"uu:M": behavior}) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "secret" not in str(error)
    assert error.origin == "host"
    incident = error.details().rpartition(" ")[2]
    assert error.details() == f"the handler failed, incident {incident}"
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert incident in record.getMessage()
    assert record.exc_info is not None


async def test_rich_status_details_arrive(serve_aio: ServeAio) -> None:
    class Status(grpc.Status):
        code = grpc.StatusCode.FAILED_PRECONDITION
        details = "rich"
        trailing_metadata = (("grpc-status-details-bin", b"\x08\x09\xff"),)

    async def rich(request: bytes, context: Any) -> bytes:
        await context.abort_with_status(Status())
        return b""

    async with serve_aio({"uu:M": rich}) as channel:
        error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.trailing_metadata()["grpc-status-details-bin"] == b"\x08\x09\xff"


# --- wrong numbers of messages, wrong messages ---


async def test_no_request_for_a_method_that_takes_one_is_answered() -> None:
    async with running_relay({"uu:M": _raise}) as relay:
        error = await error_of(Stub(relay.channel).stream_unary("M")(iter([])))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not error.may_have_executed


async def test_two_requests_for_a_method_that_takes_one_are_answered() -> None:
    async with running_relay({"uu:M": _raise}) as relay:
        error = await error_of(Stub(relay.channel).stream_unary("M")(iter([b"a", b"b"])))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stream_for_a_stub_that_expects_one_response_is_an_error() -> None:
    async def two(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with running_relay({"us:M": two}) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.origin == "caller"


async def test_response_over_the_callers_limit_is_refused() -> None:
    async def large(request: bytes, context: Any) -> bytes:
        return bytes(5000)

    options = {"options": (("grpc.max_receive_message_length", 4999),)}
    async with running_relay({"uu:M": large}, channel_options=options) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "received message larger than max (5000 vs. 4999)"


@pytest.mark.parametrize("size", [5000, 200_000])
async def test_request_over_the_hosts_limit_is_refused(size: int) -> None:
    options = {"options": (("grpc.max_receive_message_length", 4999),)}
    async with running_relay({"uu:M": _raise}, server_options=options) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("M")(bytes(size)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == f"received message larger than max ({size} vs. 4999)"
    assert error.origin == "host"


async def test_failing_serializers_are_internal_errors() -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    def fail(_: Any) -> Any:
        raise ValueError("no")

    async with running_relay({"uu:M": echo}) as relay:
        error = await error_of(relay.channel.unary_unary("/test.Service/M", fail)(b""))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "Exception serializing request!"
        assert not error.may_have_executed
        call = relay.channel.unary_unary("/test.Service/M", None, fail)(b"")
        error = await error_of(call)
        assert error.details() == "Exception deserializing response!"
        assert await call.code() is grpc.StatusCode.INTERNAL


# --- nobody there ---


async def test_no_host_is_unavailable_at_once() -> None:
    async with (
        running_hub() as hub,
        relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}/nobody") as channel,
    ):
        error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "nobody" in error.details()
    assert (error.origin, error.may_have_executed) == ("hub", False)
    assert error.trailing_metadata()["relay-origin"] == "hub"


async def test_no_hub_is_unavailable_at_once(unused_tcp_port: int) -> None:
    async with relayrpc.aio.channel(f"ws://127.0.0.1:{unused_tcp_port}/a") as channel:
        error = await error_of(Stub(channel).unary_unary("M")(b""))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (error.origin, error.may_have_executed) == ("caller", False)


async def test_wait_for_ready_waits_for_the_hub_until_the_deadline(unused_tcp_port: int) -> None:
    async with relayrpc.aio.channel(f"ws://127.0.0.1:{unused_tcp_port}/a") as channel:
        call = Stub(channel).unary_unary("M")(b"", wait_for_ready=True, timeout=0.5)
        error = await error_of(call)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not error.may_have_executed


async def test_server_that_finds_no_hub_fails_fast(unused_tcp_port: int) -> None:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{unused_tcp_port}/a")
    server.add_registered_method_handlers(
        "test.Service", {"M": grpc.unary_unary_rpc_method_handler(_raise)}
    )
    with pytest.raises(ConnectError):
        await server.start()


async def test_unknown_method_is_unimplemented_by_the_host() -> None:
    async with running_relay({"uu:M": _raise}) as relay:
        error = await error_of(Stub(relay.channel).unary_unary("Other")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "Method not found!"
    assert (error.origin, error.may_have_executed) == ("host", False)


# --- plain handlers ---


async def test_plain_handler_learns_that_its_caller_is_gone() -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(request: bytes, context: Any) -> bytes:
        over = threading.Event()
        assert context.add_callback(over.set)
        loop.call_soon_threadsafe(started.set)
        over.wait()
        assert not context.is_active()
        loop.call_soon_threadsafe(ended.set)
        return b""

    async with running_relay({"uu:M": wait}) as relay:
        call = Stub(relay.channel).unary_unary("M")(b"")
        await started.wait()
        call.cancel()
        await ended.wait()


async def test_plain_generator_is_closed_when_its_caller_is_gone() -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def count(request: bytes, context: Any) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            loop.call_soon_threadsafe(closed.set)

    async with running_relay({"us:M": count}) as relay:
        call = Stub(relay.channel).unary_stream("M")(b"")
        await call.read()
        call.cancel()
        await closed.wait()


async def test_plain_reader_of_requests_ends_when_its_caller_is_gone() -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def read(requests: Iterator[bytes], context: Any) -> bytes:
        next(requests)
        loop.call_soon_threadsafe(started.set)
        try:
            next(requests)
        except grpc.aio.AbortError:
            loop.call_soon_threadsafe(ended.set)
        return b""

    async with running_relay({"su:M": read}) as relay:
        call = Stub(relay.channel).stream_unary("M")()
        await call.write(b"")
        await started.wait()
        call.cancel()
        await ended.wait()
