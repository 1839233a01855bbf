"""
Goal: blocking calls with one response behave as grpc's own: values, errors, futures, callbacks,
cancellation, life of the channel.

Method: every test runs once on grpc's server and channel and once through a relay, and asserts the
same. What only a relay has is tested in test_sync_relay.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import relayrpc
from samples.greeter import greeter_pb2_grpc
from tests.support.blocking import Serve, SideName
from tests.support.plain_greeter import PlainGreeter, check_all_shapes_blocking


pytestmark = pytest.mark.integration


def echo(request: bytes, context: Any) -> bytes:
    return request


def not_found(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("k", "1"), ("k-bin", b"\x00")))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    raise AssertionError


class Hold:
    """A handler that says that it has begun, and returns once released or when its call is over."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()
        self.was_cancelled = threading.Event()

    def __call__(self, request: bytes, context: Any) -> bytes:
        def over() -> None:
            if not self.released.is_set():
                self.was_cancelled.set()
                self.released.set()

        assert context.add_callback(over)
        self.entered.release()
        self.released.wait()
        return request


def without_relays(metadata: Any) -> tuple[Any, ...]:
    """Metadata but for what the relay adds to an end it made."""
    return tuple(entry for entry in metadata if not entry[0].startswith("relay-"))


def start_thread(function: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


# --- one call ---


def test_call_returns_the_response(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        assert stub(b"x") == b"x"
        # As gRPC's signature: what follows the request may be positional.
        assert stub(b"", 60, (("k", "v"),), None, True, grpc.Compression.Gzip) == b""
        assert stub(request=bytes(1_000_000), timeout=60) == bytes(1_000_000)


def test_call_credentials_need_tls(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        call = channel.unary_unary("/test.Service/E").future(
            b"", credentials=grpc.access_token_call_credentials("token")
        )
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert call.details().startswith("Established channel does not have a sufficient security")


def test_serializers_are_used(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E", str.encode, bytes.decode, True)
        assert stub("text") == "text"
        response, _ = stub.with_call("text")
        assert response == "text"
        assert stub.future("text").result() == "text"


def test_call_of_with_call_is_over(serve: Serve) -> None:
    def tell(request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("i", "1"),))
        context.set_trailing_metadata((("t-bin", b"\x00"), ("t", "2")))
        return request

    with serve({"uu:T": tell}) as channel:
        response, call = channel.unary_unary("/test.Service/T").with_call(b"x")
        assert response == call.result() == b"x"
        assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
        assert call.initial_metadata() == (("i", "1"),)
        assert set(call.trailing_metadata()) == {("t-bin", b"\x00"), ("t", "2")}
        assert call.trailing_metadata()[0].key == call.trailing_metadata()[0][0]
        assert (call.is_active(), call.running(), call.done()) == (False, False, True)
        assert (call.cancel(), call.cancelled()) == (False, False)
        assert call.exception() is None
        assert call.traceback() is None
        assert call.time_remaining() is None
        assert not call.add_callback(lambda: None)
        told: list[Any] = []
        call.add_done_callback(told.append)
        assert told == [call]
        assert isinstance(call, (grpc.Call, grpc.Future))


def test_failed_call_raises_its_status(serve: Serve) -> None:
    with serve({"uu:N": not_found}) as channel:
        stub = channel.unary_unary("/test.Service/N")
        for call in (stub, stub.with_call, lambda request: stub.future(request).result()):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details() == "no such thing"
            assert set(error.trailing_metadata()) >= {("k", "1"), ("k-bin", b"\x00")}
            assert error.initial_metadata() == ()
            assert "NOT_FOUND" in str(error)
            assert isinstance(error, (grpc.Call, grpc.Future))
            assert (error.done(), error.running(), error.cancelled()) == (True, False, False)
            assert error.exception() is error
            assert error.traceback() is not None
            with pytest.raises(grpc.RpcError):
                error.result()


def test_unknown_method_is_unimplemented(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Service/Other")(b"")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == "Method not found!"


def test_deadline_ends_the_call_at_both_ends(serve: Serve) -> None:
    # On a busy machine a short one may pass before the handler has begun, or while it does.
    holds = {timeout: Hold() for timeout in (b"0.3", b"3", b"30")}

    def held(timeout: bytes, context: Any) -> bytes:
        return holds[timeout](timeout, context)

    with serve({"uu:H": held}) as channel:
        stub = channel.unary_unary("/test.Service/H")
        for timeout, hold in holds.items():
            with pytest.raises(grpc.RpcError) as caught:
                stub(timeout, timeout=float(timeout))
            if hold.entered.acquire(blocking=False):
                break
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "Deadline Exceeded"
        hold.was_cancelled.wait()
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"", timeout=-1)
        error = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_what_cannot_be_sent_is_told_at_the_call(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        for call in (stub, stub.future):
            with pytest.raises(TypeError):
                call(b"", metadata=(("x-bin", "text"),))
        with pytest.raises(TypeError):
            stub("text")
        with pytest.raises(TypeError):
            stub(b"", timeout="soon")
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"", metadata=(("Upper", "x"),))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details().startswith("Invalid metadata")
        with pytest.raises(grpc.RpcError):
            stub.future(b"", metadata=(("Upper", "x"),)).result()


def test_failing_serializers_are_internal_errors(serve: Serve) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no")

    with serve({"uu:E": echo}) as channel:
        sending = channel.unary_unary("/test.Service/E", fail)
        for call in (sending, sending.with_call, sending.future):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.INTERNAL
            assert error.details() == "Exception serializing request!"
        receiving = channel.unary_unary("/test.Service/E", None, fail)
        for call in (receiving, lambda request: receiving.future(request).result()):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
            error = caught.value
            assert error.code() is grpc.StatusCode.INTERNAL
            assert error.details() == "Exception deserializing response!"
        future = receiving.future(b"")
        assert future.code() is grpc.StatusCode.INTERNAL
        assert future.exception() is not None


def test_generated_code_works_in_all_four_shapes(serve: Serve) -> None:
    def register(server: Any) -> None:
        greeter_pb2_grpc.add_GreeterServicer_to_server(PlainGreeter(), server)

    with serve(register=register) as channel:
        check_all_shapes_blocking(channel)


# --- futures ---


def test_future_is_done_when_the_call_is(serve: Serve) -> None:
    hold = Hold()
    with serve({"uu:H": hold}) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"x", timeout=60)
        hold.entered.acquire()
        assert (future.done(), future.running(), future.is_active()) == (False, True, True)
        assert 0 < future.time_remaining() <= 60
        for wait in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureTimeoutError):
                wait(timeout=0.01)
        hold.released.set()
        assert future.result(timeout=60) == future.result() == b"x"
        assert (future.done(), future.running(), future.is_active()) == (True, False, False)
        assert future.exception() is None
        assert future.traceback() is None
        assert (future.code(), future.details()) == (grpc.StatusCode.OK, "")
        assert (future.initial_metadata(), future.trailing_metadata()) == ((), ())
        assert (future.cancel(), future.cancelled()) == (False, False)


def test_cancelled_future_says_so(serve: Serve) -> None:
    hold = Hold()
    with serve({"uu:H": hold}) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"x")
        hold.entered.acquire()
        waiting = start_thread(_must_be_cancelled, future)
        assert future.cancel()
        assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
        assert not future.cancel()
        assert future.code() is grpc.StatusCode.CANCELLED
        assert future.details() == "Locally cancelled by application!"
        for wait in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                wait()
        assert future.initial_metadata() == without_relays(future.trailing_metadata()) == ()
        hold.was_cancelled.wait()
        waiting.join()


def _must_be_cancelled(future: Any) -> None:
    with pytest.raises(grpc.FutureCancelledError):
        future.result()


def test_failed_future_gives_its_error(serve: Serve) -> None:
    with serve({"uu:N": not_found}) as channel:
        future = channel.unary_unary("/test.Service/N").future(b"")
        error = future.exception()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is future.code() is grpc.StatusCode.NOT_FOUND
        assert future.details() == "no such thing"
        assert set(future.trailing_metadata()) >= {("k", "1"), ("k-bin", b"\x00")}
        assert future.traceback() is not None
        assert not future.cancelled()


def test_callbacks_run_once_after_the_end(serve: Serve) -> None:
    hold = Hold()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serve({"uu:H": hold}) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"x")
        hold.entered.acquire()
        future.add_done_callback(told.put)
        assert future.add_callback(lambda: told.put("over"))
        assert told.empty()
        hold.released.set()
        assert told.get() is future
        assert told.get() == "over"
        future.add_done_callback(told.put)
        assert told.get_nowait() is future
        assert not future.add_callback(lambda: told.put("late"))
        assert told.empty()


def test_failing_callback_is_logged_and_hurts_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    hold = Hold()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def fail(future: Any) -> None:
        raise RuntimeError("a callback's own")

    with serve({"uu:H": hold}) as channel, caplog.at_level(logging.ERROR):
        future = channel.unary_unary("/test.Service/H").future(b"x")
        future.add_done_callback(fail)
        future.add_done_callback(told.put)
        hold.released.set()
        assert told.get() is future
        assert "a callback's own" in caplog.text


def test_callback_may_call(serve: Serve) -> None:
    hold = Hold()
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with serve({"uu:H": hold, "uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        future = channel.unary_unary("/test.Service/H").future(b"x")
        future.add_done_callback(lambda done: told.put(stub(done.result())))
        hold.released.set()
        assert told.get() == b"x"


def test_dropped_future_cancels_its_call(serve: Serve) -> None:
    hold = Hold()
    with serve({"uu:H": hold}) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"x")
        hold.entered.acquire()
        del future
        gc.collect()
        hold.was_cancelled.wait()


def test_future_with_a_callback_is_kept(serve: Serve) -> None:
    hold = Hold()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serve({"uu:H": hold}) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"x")
        future.add_done_callback(told.put)
        hold.entered.acquire()
        del future
        gc.collect()
        hold.released.set()
        assert told.get().result() == b"x"


# --- threads ---


def test_sixteen_threads_get_their_own_responses(serve: Serve) -> None:
    wrong: list[Any] = []

    def work(number: int, stub: Any) -> None:
        for round_number in range(50):
            request = b"%d %d" % (number, round_number)
            if round_number % 5:
                response = stub(request, timeout=60)
            else:
                response = stub.future(request).result()
            if response != request:
                wrong.append((request, response))

    with serve({"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        threads = [start_thread(work, number, stub) for number in range(16)]
        for thread in threads:
            thread.join()
    assert not wrong


async def test_blocking_call_works_where_an_event_loop_runs(serve: Serve) -> None:
    assert asyncio.get_running_loop().is_running()
    with serve({"uu:E": echo}) as channel:
        assert channel.unary_unary("/test.Service/E")(b"x") == b"x"


# --- the channel ---


def test_closed_channel_refuses_calls(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        stub(b"")
        channel.close()
        channel.close()
        for call, request in (
            (stub, b""),
            (stub.with_call, b""),
            (stub.future, b""),
            (channel.unary_stream("/test.Service/E"), b""),
            (channel.stream_unary("/test.Service/E"), iter(())),
            (channel.stream_stream("/test.Service/E"), iter(())),
        ):
            with pytest.raises(ValueError, match=r"^Cannot invoke RPC.*hannel"):
                call(request)


def test_channel_closed_before_its_first_call_refuses_it(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        channel.close()
        with pytest.raises(ValueError, match="Cannot invoke RPC on closed channel!"):
            channel.unary_unary("/test.Service/E")(b"")


def test_closing_the_channel_cancels_what_runs(side: SideName, serve: Serve) -> None:
    hold = Hold()
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call(stub: Any) -> None:
        try:
            stub(b"")
        except grpc.RpcError as error:
            ends.put(error)

    with serve({"uu:H": hold}) as channel:
        stub = channel.unary_unary("/test.Service/H")
        future = stub.future(b"")
        hold.entered.acquire()
        # grpc's own blocking call does not notice that its channel is closed, and waits on.
        thread = start_thread(call, stub) if side == "relay" else None
        if thread is not None:
            hold.entered.acquire()
        channel.close()
        assert future.code() is grpc.StatusCode.CANCELLED
        assert future.details() == "Channel closed!"
        assert not future.cancelled()
        with pytest.raises(grpc.RpcError):
            future.result()
        hold.was_cancelled.wait()
        if thread is not None:
            assert ends.get().details() == "Channel closed!"
            thread.join()


def test_channel_tells_when_it_is_ready(serve: Serve) -> None:
    with serve({"uu:E": echo}) as channel:
        ready = grpc.channel_ready_future(channel)
        assert ready.result(timeout=60) is None
        assert ready.done()
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        channel.subscribe(told.put)
        assert told.get() is grpc.ChannelConnectivity.READY
        channel.unsubscribe(told.put)
        channel.unsubscribe(told.put)


def test_idle_channel_connects_when_a_subscriber_asks(serve: Serve) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serve({"uu:E": echo}) as channel:
        channel.subscribe(told.put)
        assert told.get() is grpc.ChannelConnectivity.IDLE
        channel.subscribe(lambda state: None, try_to_connect=True)
        while told.get() is not grpc.ChannelConnectivity.READY:
            pass


def test_ready_future_can_be_cancelled(side: SideName, unused_tcp_port: int) -> None:
    target = f"127.0.0.1:{unused_tcp_port}"
    make: Any = grpc.insecure_channel if side == "direct" else relayrpc.channel
    with make(target if side == "direct" else f"ws://{target}/a") as channel:
        ready = grpc.channel_ready_future(channel)
        with pytest.raises(grpc.FutureTimeoutError):
            ready.result(timeout=0.05)
        assert ready.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            ready.result()


def test_nobody_there_is_unavailable_at_once(side: SideName, unused_tcp_port: int) -> None:
    target = f"127.0.0.1:{unused_tcp_port}"
    make: Any = grpc.insecure_channel if side == "direct" else relayrpc.channel
    with make(target if side == "direct" else f"ws://{target}/a") as channel:
        stub = channel.unary_unary("/test.Service/E")
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"", wait_for_ready=True, timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]


# --- interceptors ---


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, metadata: Any) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class Tag(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds its name to the metadata of every call, and notes how each ended."""

    def __init__(self, name: str, ends: list[Any]) -> None:
        self._name = name
        self._ends = ends

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), ("tag", self._name))
        call = continuation(_Details(details, metadata), request)
        call.add_done_callback(lambda done: self._ends.append((self._name, done.code())))
        return call

    intercept_unary_unary = intercept_unary_stream = _intercept
    intercept_stream_unary = intercept_stream_stream = _intercept


def tags(request: Any, context: Any) -> bytes:
    values = [value for key, value in context.invocation_metadata() if key == "tag"]
    return ",".join(values).encode()


def tag_stream(request: Any, context: Any) -> Iterator[bytes]:
    yield tags(request, context)


def test_intercepted_channel_intercepts_all_four_shapes(serve: Serve) -> None:
    ends: list[Any] = []
    behaviors = {"uu:UU": tags, "us:US": tag_stream, "su:SU": tags, "ss:SS": tag_stream}
    with serve(behaviors) as plain:
        channel = grpc.intercept_channel(plain, Tag("outer", ends), Tag("inner", ends))
        stub = channel.unary_unary("/test.Service/UU")
        assert stub(b"") == stub.with_call(b"")[0] == stub.future(b"").result() == b"outer,inner"
        assert list(channel.unary_stream("/test.Service/US")(b"")) == [b"outer,inner"]
        assert channel.stream_unary("/test.Service/SU")(iter([b""])) == b"outer,inner"
        assert list(channel.stream_stream("/test.Service/SS")(iter([b""]))) == [b"outer,inner"]
    assert set(ends) == {("outer", grpc.StatusCode.OK), ("inner", grpc.StatusCode.OK)}


def test_interceptor_is_given_the_error_of_a_call(serve: Serve) -> None:
    ends: list[Any] = []
    with serve({"uu:N": not_found}) as plain:
        channel = grpc.intercept_channel(plain, Tag("only", ends))
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Service/N")(b"")
        assert caught.value.details() == "no such thing"  # type: ignore[attr-defined]
    assert ends == [("only", grpc.StatusCode.NOT_FOUND)]
