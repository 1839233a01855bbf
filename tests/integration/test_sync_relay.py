"""
Goal: what a blocking channel adds to grpc's: truthful errors, its own limits and misuse, threads
that end with it, every carrier, the generated code of the sample.

Method: a hub on a thread of its own, and channels of this test's.
"""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc.errors import UsageError
from relayrpc.limits import Limits
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc as rpc
from tests.support.blocking import HubThread, serving


pytestmark = pytest.mark.integration


def echo(request: bytes, context: Any) -> bytes:
    return request


def threads_of_relay() -> list[threading.Thread]:
    """Threads of this package that are alive, but for those of its handlers."""
    return [each for each in threading.enumerate() if each.name.startswith("relayrpc ")]


# --- errors ---


def test_error_says_who_ended_the_call_and_if_it_may_have_run(relay_hub: HubThread) -> None:
    with serving("relay", relay_hub, {"uu:E": echo}) as channel:
        with pytest.raises(relayrpc.RpcError) as caught:
            channel.unary_unary("/test.Service/Other")(b"")
        assert (caught.value.origin, caught.value.may_have_executed) == ("host", False)
    with relayrpc.channel(relay_hub.url("nowhere")) as channel:
        with pytest.raises(relayrpc.RpcError) as caught:
            channel.unary_unary("/test.Service/E")(b"")
        error = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert (error.origin, error.may_have_executed) == ("hub", False)
        assert ("relay-origin", "hub") in error.trailing_metadata()


def test_deadline_is_a_timeout_error_too(relay_hub: HubThread) -> None:
    released = threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        released.wait()
        return b""

    with serving("relay", relay_hub, {"uu:W": wait}) as channel:
        with pytest.raises(TimeoutError) as caught:
            channel.unary_unary("/test.Service/W")(b"", timeout=0.3)
        released.set()
    error: Any = caught.value
    assert isinstance(error, relayrpc.DeadlineExceededError)
    assert isinstance(error, grpc.RpcError)
    # Whoever was first: the deadline passes here and at the hub.
    assert error.origin in {"caller", "hub"}
    assert error.may_have_executed


def test_misuse_raises_at_once(relay_hub: HubThread) -> None:
    with serving("relay", relay_hub, {"uu:E": echo}) as channel:
        stub = channel.unary_unary("/test.Service/E")
        with pytest.raises(UsageError, match="relay-nonsense"):
            stub(b"", metadata=(("relay-nonsense", "x"),))
        with pytest.raises(UsageError, match=r"make them with relayrpc\.call_credentials"):
            stub.future(b"", credentials=grpc.CallCredentials(object()))
        with pytest.raises(relayrpc.RpcError, match="is over 16384 bytes") as caught:
            stub(b"", metadata=(("k", "x" * 17_000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not caught.value.may_have_executed


def test_waiting_on_the_channels_own_thread_raises(relay_hub: HubThread) -> None:
    """It would wait for itself; a finalizer that runs there is how a program may come to that."""
    with relayrpc.channel(relay_hub.url()) as channel:
        channel.subscribe(lambda state: None)
        stub = channel.unary_unary("/test.Service/E")
        for wait in (lambda: stub(b""), channel.close):
            with pytest.raises(UsageError, match="wait for the thread it runs on"):
                channel.portal.handover.call(wait)


def test_calls_beyond_the_links_bound_are_refused(relay_hub: HubThread) -> None:
    released = threading.Event()
    entered = threading.Semaphore(0)

    def wait(request: bytes, context: Any) -> bytes:
        entered.release()
        released.wait()
        return b""

    few = Limits(calls_open_max=3)
    with (
        serving("relay", relay_hub, {"uu:W": wait}),
        relayrpc.channel(relay_hub.url(), limits=few) as channel,
    ):
        stub = channel.unary_unary("/test.Service/W")
        futures = [stub.future(b"") for _ in range(10)]
        for _ in range(3):
            entered.acquire()
        errors = [future.exception() for future in futures[3:]]
        assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert not any(error.may_have_executed for error in errors)
        released.set()
        assert [future.result() for future in futures[:3]] == [b""] * 3


# --- life ---


def test_nothing_is_left_of_a_closed_channel(relay_hub: HubThread) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serving("relay", relay_hub, {"uu:E": echo}):
        channel = relayrpc.channel(relay_hub.url())
        assert not threads_of_relay()
        channel.subscribe(told.put, try_to_connect=True)
        stub = channel.unary_unary("/test.Service/E")
        future = stub.future(b"x")
        future.add_done_callback(told.put)
        future.result()
        assert len(threads_of_relay()) == 2
        channel.close()
        assert not threads_of_relay()
        assert not channel.core.calls


def test_channel_may_be_closed_by_a_callback(relay_hub: HubThread) -> None:
    closed = threading.Event()
    with serving("relay", relay_hub, {"uu:E": echo}):
        channel = relayrpc.channel(relay_hub.url())

        def close(future: Any) -> None:
            channel.close()
            closed.set()

        channel.unary_unary("/test.Service/E").future(b"x").add_done_callback(close)
        closed.wait()
        with pytest.raises(ValueError, match="closed channel"):
            channel.unary_unary("/test.Service/E")(b"")


def test_dropped_channel_ends_its_thread(relay_hub: HubThread) -> None:
    with serving("relay", relay_hub, {"uu:E": echo}):
        channel = relayrpc.channel(relay_hub.url())
        stub = channel.unary_unary("/test.Service/E")
        stub(b"x")
        [thread] = threads_of_relay()
        del channel
        gc.collect()
        assert stub(b"x") == b"x"
        del stub
        gc.collect()
        thread.join()


def test_threads_that_call_while_the_channel_is_closed_are_all_told(relay_hub: HubThread) -> None:
    ends: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def work(stub: Any) -> None:
        try:
            while True:
                stub(b"x")
        except (ValueError, relayrpc.RpcError) as error:
            ends.put(error)

    with serving("relay", relay_hub, {"uu:E": echo}):
        for _ in range(5):
            channel = relayrpc.channel(relay_hub.url())
            stub = channel.unary_unary("/test.Service/E")
            stub(b"x")
            threads = [threading.Thread(target=work, args=(stub,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            channel.close()
            for thread in threads:
                thread.join()
            for _ in threads:
                error: Any = ends.get()
                text = str(error) if isinstance(error, ValueError) else error.details()
                assert text in {"Cannot invoke RPC on closed channel!", "Channel closed!"}


# --- carriers, generated code ---


class Greeter(rpc.GreeterServicer):
    """Plain functions and generators."""

    def SayHello(self, request: Any, context: Any) -> Any:
        return pb.HelloReply(message=f"Hello, {request.name}")

    def ListGreetings(self, request: Any, context: Any) -> Iterator[Any]:
        for number in range(1, request.count + 1):
            yield pb.HelloReply(message=request.name, number=number)

    def CollectNames(self, requests: Iterator[Any], context: Any) -> Any:
        return pb.HelloReply(message=", ".join(request.name for request in requests))

    def Chat(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield pb.ChatLine(text=request.text.upper())


@pytest.mark.parametrize("carrier", ["auto", "grpc", "websocket"])
def test_every_carrier_carries_generated_code(relay_hub: HubThread, carrier: Any) -> None:
    url = f"relay://127.0.0.1:{relay_hub.grpc_port}/contoso/test"

    def register(server: Any) -> None:
        rpc.add_GreeterServicer_to_server(Greeter(), server)

    with (
        serving("relay", relay_hub, register=register),
        relayrpc.channel(url, carrier=carrier) as channel,
    ):
        stub = rpc.GreeterStub(channel)
        assert stub.SayHello(pb.HelloRequest(name="Ada")).message == "Hello, Ada"
        future = stub.SayHello.future(pb.HelloRequest(name="Ada"))
        assert future.result().message == "Hello, Ada"
        replies = stub.ListGreetings(pb.ListGreetingsRequest(name="Ada", count=3))
        assert [reply.number for reply in replies] == [1, 2, 3]
        names = iter([pb.HelloRequest(name="Ada"), pb.HelloRequest(name="Grace")])
        assert stub.CollectNames(names).message == "Ada, Grace"
        lines = iter([pb.ChatLine(text="a"), pb.ChatLine(text="b")])
        assert [line.text for line in stub.Chat(lines)] == ["A", "B"]
