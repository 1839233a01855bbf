"""
Goal: blocking calls with streams behave as grpc's own: iterating, requests on a thread of their
own, cancelling from another thread, ends.

Method: every test runs once on grpc's server and channel and once through a relay, and asserts the
same.
"""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.support.blocking import Serve


pytestmark = pytest.mark.integration


def count(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def count_then_abort(request: bytes, context: Any) -> Iterator[bytes]:
    yield from count(request, context)
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")


def join(requests: Iterator[bytes], context: Any) -> bytes:
    return b",".join(requests)


def echo_all(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


class Endless:
    """A stream that goes on until its call is over, which it notes."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def __call__(self, request: Any, context: Any) -> Iterator[bytes]:
        if not context.add_callback(self.is_over.set):
            self.is_over.set()
        yield b"first"
        yield b"second"
        self.is_over.wait()


class Waiting:
    """A request iterator that waits for its next, or to be let go."""

    def __init__(self, *first: bytes) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for each in first:
            self._requests.put(each)

    def put(self, request: bytes | None) -> None:
        self._requests.put(request)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        request = self._requests.get()
        if request is None:
            raise StopIteration
        return request


# --- responses ---


def test_responses_are_iterated_in_order(serve: Serve) -> None:
    with serve({"us:C": count}) as channel:
        call = channel.unary_stream("/test.Service/C")(b"3")
        assert iter(call) is call
        assert next(call) == b"0"
        assert call.next() == b"1"
        assert list(call) == [b"2"]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(call)
        assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
        assert call.trailing_metadata() == ()
        assert call.exception() is None
        assert (call.done(), call.running(), call.is_active()) == (True, False, False)
        assert (call.cancel(), call.cancelled()) == (False, False)
        assert isinstance(call, (grpc.Call, grpc.Future))


def test_empty_stream_ends_at_once(serve: Serve) -> None:
    with serve({"us:C": count}) as channel:
        assert list(channel.unary_stream("/test.Service/C")(b"0")) == []


def test_many_and_large_messages_arrive(serve: Serve) -> None:
    with serve({"us:C": count, "ss:E": echo_all}) as channel:
        assert len(list(channel.unary_stream("/test.Service/C")(b"2000"))) == 2000
        large = [bytes([number]) * 500_000 for number in range(6)]
        assert list(channel.stream_stream("/test.Service/E")(iter(large))) == large


def test_error_comes_after_the_messages_and_stays(serve: Serve) -> None:
    with serve({"us:A": count_then_abort}) as channel:
        call = channel.unary_stream("/test.Service/A")(b"2")
        assert [next(call), next(call)] == [b"0", b"1"]
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.DATA_LOSS
            assert error.details() == "the rest is lost"
        with pytest.raises(grpc.RpcError):
            call.result()
        assert isinstance(call.exception(), grpc.RpcError)
        assert call.traceback() is not None
        assert call.code() is grpc.StatusCode.DATA_LOSS


def test_initial_metadata_comes_before_the_first_message(serve: Serve) -> None:
    go_on = threading.Event()

    def begin(request: bytes, context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("i", "1"), ("i-bin", b"\x00")))
        go_on.wait()
        yield b"x"

    with serve({"us:B": begin}) as channel:
        call = channel.unary_stream("/test.Service/B")(b"")
        assert set(call.initial_metadata()) == {("i", "1"), ("i-bin", b"\x00")}
        assert call.is_active()
        go_on.set()
        assert list(call) == [b"x"]


def test_cancelling_from_another_thread_ends_the_reading(serve: Serve) -> None:
    endless = Endless()
    with serve({"us:E": endless}) as channel:
        call = channel.unary_stream("/test.Service/E")(b"")
        assert [next(call), next(call)] == [b"first", b"second"]
        canceller = threading.Thread(target=call.cancel)
        canceller.start()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        canceller.join()
        error: Any = caught.value
        assert error.code() is call.code() is grpc.StatusCode.CANCELLED
        assert error.details() == call.details() == "Locally cancelled by application!"
        assert (call.cancelled(), call.cancel()) == (True, False)
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        endless.is_over.wait()


def test_dropped_stream_cancels_its_call(serve: Serve) -> None:
    endless = Endless()
    with serve({"us:E": endless}) as channel:
        call = channel.unary_stream("/test.Service/E")(b"")
        next(call)
        del call
        gc.collect()
        endless.is_over.wait()


def test_deadline_ends_a_stream(serve: Serve) -> None:
    # On a busy machine a short one may pass before the handler has begun, or while it does.
    streams = {timeout: Endless() for timeout in (b"0.5", b"5", b"50")}

    def endless(timeout: bytes, context: Any) -> Iterator[bytes]:
        return streams[timeout](timeout, context)

    with serve({"us:E": endless}) as channel:
        for timeout in streams:
            call = channel.unary_stream("/test.Service/E")(timeout, timeout=float(timeout))
            seen: list[bytes] = []
            with pytest.raises(grpc.RpcError) as caught:
                seen.extend(call)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
            assert not call.cancelled()
            if seen:
                break
        assert seen
        streams[timeout].is_over.wait()


def test_callbacks_of_a_stream_run_after_its_end(serve: Serve) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serve({"us:E": Endless()}) as channel:
        call = channel.unary_stream("/test.Service/E")(b"")
        call.add_done_callback(told.put)
        assert call.add_callback(lambda: told.put("over"))
        assert next(call) == b"first"
        assert told.empty()
        call.cancel()
        assert {told.get(), told.get()} == {call, "over"}


def test_response_that_cannot_be_deserialized_ends_the_call(serve: Serve) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no")

    with serve({"us:C": count}) as channel:
        call = channel.unary_stream("/test.Service/C", None, fail)(b"3")
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "Exception deserializing response!"
        assert call.code() is grpc.StatusCode.INTERNAL


# --- requests ---


def test_requests_are_iterated_on_a_thread_of_their_own(serve: Serve) -> None:
    threads: set[int] = set()

    def requests() -> Iterator[bytes]:
        for each in (b"1", b"2"):
            threads.add(threading.get_ident())
            yield each

    with serve({"su:J": join, "ss:E": echo_all}) as channel:
        collect = channel.stream_unary("/test.Service/J")
        assert collect(requests()) == collect(request_iterator=requests()) == b"1,2"
        response, call = collect.with_call(requests())
        assert (response, call.code()) == (b"1,2", grpc.StatusCode.OK)
        assert collect.future(requests()).result() == b"1,2"
        assert list(channel.stream_stream("/test.Service/E")(requests())) == [b"1", b"2"]
    assert threads
    assert threading.get_ident() not in threads


def test_requests_and_responses_take_turns(serve: Serve) -> None:
    with serve({"ss:E": echo_all}) as channel:
        requests = Waiting()
        call = channel.stream_stream("/test.Service/E")(requests)
        for number in range(50):
            requests.put(b"%d" % number)
            assert next(call) == b"%d" % number
        requests.put(None)
        assert list(call) == []


def test_request_iterator_that_raises_ends_the_call(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def requests() -> Iterator[bytes]:
        yield b"1"
        raise ValueError("the program's own")

    with serve({"su:J": join, "ss:E": echo_all}) as channel:
        collect = channel.stream_unary("/test.Service/J")
        exchange = channel.stream_stream("/test.Service/E")
        for call in (
            lambda: collect(requests()),
            lambda: collect.future(requests()).result(),
            lambda: list(exchange(requests())),
            lambda: collect(None),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert error.details() == "Exception iterating requests!"
    assert "the program's own" in caplog.text


def test_request_that_cannot_be_serialized_ends_the_call(serve: Serve) -> None:
    with serve({"su:J": join}) as channel:
        collect = channel.stream_unary("/test.Service/J", str.encode)
        assert collect(iter(["1", "2"])) == b"1,2"
        with pytest.raises(grpc.RpcError) as caught:
            collect(iter(["1", 2]))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "Exception serializing request!"


def test_call_ends_while_its_request_iterator_waits(serve: Serve) -> None:
    with serve({"su:J": join}) as channel:
        collect = channel.stream_unary("/test.Service/J")
        requests = Waiting(b"1")
        with pytest.raises(grpc.RpcError) as caught:
            collect(requests, timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
        requests.put(None)


def test_server_may_end_before_the_requests_do(serve: Serve) -> None:
    def refuse(requests: Iterator[bytes], context: Any) -> bytes:
        next(requests)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        raise AssertionError

    def requests() -> Iterator[bytes]:
        while True:
            yield bytes(10_000)

    with serve({"su:R": refuse}) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary("/test.Service/R")(requests())
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "enough"


def test_requests_wait_for_a_host_that_does_not_read(serve: Serve) -> None:
    """An iterator is not read far ahead of the handler: what it gives would pile up here."""
    given = 0
    go_on = threading.Event()

    def read_late(requests: Iterator[bytes], context: Any) -> bytes:
        first = next(requests)
        go_on.wait()
        return b"%d" % (len(first) + sum(map(len, requests)))

    def requests() -> Iterator[bytes]:
        nonlocal given
        for _ in range(300):
            given += 100_000
            yield bytes(100_000)

    with serve({"su:R": read_late}) as channel:
        future = channel.stream_unary("/test.Service/R").future(requests())
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(timeout=1)
        assert given < 20_000_000
        go_on.set()
        assert future.result() == b"30000000"
