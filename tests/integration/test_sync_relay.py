"""
Goal: what a blocking channel or server adds to grpc's: truthful errors, limits and misuse of their
own, threads that end with them, every carrier, the generated code of the sample.

Method: a hub on a thread of its own, and channels and servers of the test's.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc.errors import ConfigError, ConnectError, LinkRefusedError, UsageError
from relayrpc.limits import Limits
from relayrpc.testing import run_hub
from samples.greeter import greeter_pb2_grpc as rpc
from tests.support.blocking import HubThread, serving
from tests.support.plain_greeter import PlainGreeter, check_all_shapes_blocking
from tests.support.relay import make_handlers


pytestmark = pytest.mark.integration


def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_async(request: bytes, context: Any) -> bytes:
    return request


def join(requests: Iterator[bytes], context: Any) -> bytes:
    return b",".join(requests)


def echo_all(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


def make_server(hub: HubThread, behaviors: dict[str, Any], **options: Any) -> relayrpc.Server:
    server = relayrpc.server(hub.url(), **options)
    server.add_registered_method_handlers("test.Service", make_handlers(behaviors))
    return server


ThreadsOf = Callable[[str], list[threading.Thread]]


@pytest.fixture
def threads_of() -> ThreadsOf:
    """Tell which threads of channels or servers that this test made are alive."""
    others = set(threading.enumerate())

    def find(what: str) -> list[threading.Thread]:
        return [
            each
            for each in threading.enumerate()
            if each.name.startswith(f"relayrpc {what}") and each not in others
        ]

    return find


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


def test_calls_that_the_channels_thread_has_not_come_to_are_bounded(
    relay_hub: HubThread,
) -> None:
    """Else a thread that starts calls and waits for none could fill the memory."""
    go_on = threading.Event()
    backlogs: list[int] = []
    few = Limits(calls_open_max=5)
    with (
        serving("relay", relay_hub, {"uu:E": echo}),
        relayrpc.channel(relay_hub.url(), limits=few) as channel,
    ):
        stub = channel.unary_unary("/test.Service/E")
        stub(b"")
        handover = channel.portal.handover
        handover.submit(go_on.wait)

        def start_many() -> None:
            for _ in range(40):
                stub.future(b"")
                backlogs.append(handover.backlog_count)

        thread = threading.Thread(target=start_many)
        thread.start()
        while handover.backlog_count <= few.calls_open_max + 1 and thread.is_alive():
            pass
        go_on.set()
        thread.join()
    assert max(backlogs) <= few.calls_open_max + 3


# --- life ---


def test_nothing_is_left_of_a_closed_channel(relay_hub: HubThread, threads_of: ThreadsOf) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with serving("relay", relay_hub, {"uu:E": echo}):
        channel = relayrpc.channel(relay_hub.url())
        assert not threads_of("channel")
        channel.subscribe(told.put, try_to_connect=True)
        stub = channel.unary_unary("/test.Service/E")
        future = stub.future(b"x")
        future.add_done_callback(told.put)
        future.result()
        assert len(threads_of("channel")) == 2
        channel.close()
        assert not threads_of("channel")
        assert not channel.core.calls


def test_sixteen_threads_of_every_kind_of_call_leave_nothing(
    relay_hub: HubThread, threads_of: ThreadsOf
) -> None:
    def count(request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(20):
            yield b"%s %d" % (request, number)

    def work(name: bytes, channel: grpc.Channel) -> None:
        unary = channel.unary_unary("/test.Service/E")
        for _ in range(10):
            assert unary(name, timeout=60) == name
            dropped = unary.future(name)
            cancelled = unary.future(name)
            cancelled.cancel()
            call = channel.unary_stream("/test.Service/C")(name)
            assert [next(call) for _ in range(3)] == [b"%s %d" % (name, n) for n in range(3)]
            del dropped, call
            requests = iter([name] * 20)
            assert channel.stream_unary("/test.Service/J")(requests) == b",".join([name] * 20)
            requests = iter([name] * 20)
            assert list(channel.stream_stream("/test.Service/A")(requests)) == [name] * 20

    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def watch(name: bytes, channel: grpc.Channel) -> None:
        try:
            work(name, channel)
        except BaseException as error:
            failed.put(error)

    behaviors = {"uu:E": echo, "us:C": count, "su:J": join, "ss:A": echo_all}
    server = make_server(relay_hub, behaviors)
    server.start()
    channel = relayrpc.channel(relay_hub.url())
    names = [b"%d" % number for number in range(16)]
    threads = [threading.Thread(target=watch, args=(name, channel)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed.empty(), failed.get()
    channel.close()
    server.stop(60).wait()
    assert not channel.core.calls
    assert not server.core._contexts
    assert not server.core._left_behind
    for what in ("channel", "server", "requests"):
        for thread in threads_of(what):
            thread.join()


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


def test_dropped_channel_ends_its_thread(relay_hub: HubThread, threads_of: ThreadsOf) -> None:
    with serving("relay", relay_hub, {"uu:E": echo}):
        channel = relayrpc.channel(relay_hub.url())
        stub = channel.unary_unary("/test.Service/E")
        stub(b"x")
        [thread] = threads_of("channel")
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


@pytest.mark.parametrize("carrier", ["auto", "grpc", "websocket"])
def test_every_carrier_carries_generated_code(relay_hub: HubThread, carrier: Any) -> None:
    url = f"relay://127.0.0.1:{relay_hub.grpc_port}/contoso/test"

    def register(server: Any) -> None:
        rpc.add_GreeterServicer_to_server(PlainGreeter(), server)

    with (
        serving("relay", relay_hub, register=register),
        relayrpc.channel(url, carrier=carrier) as channel,
    ):
        check_all_shapes_blocking(channel)


# --- the server ---


def test_server_opens_no_port_and_says_so(relay_hub: HubThread) -> None:
    server = make_server(relay_hub, {"uu:E": echo})
    with pytest.raises(UsageError, match="delete the call that adds"):
        server.add_insecure_port("127.0.0.1:0")
    with pytest.raises(UsageError, match="dials out to its hub"):
        server.add_secure_port("[::]:443", grpc.local_server_credentials())
    assert isinstance(server, grpc.Server)


def test_server_takes_what_it_can_serve(relay_hub: HubThread) -> None:
    async def echo_async(request: bytes, context: Any) -> bytes:
        return request

    class Nameless(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return None

    server = relayrpc.server(relay_hub.url())
    with pytest.raises(UsageError, match="serves nothing"):
        server.start()
    with pytest.raises(UsageError, match="is async; a blocking server takes plain functions"):
        make_server(relay_hub, {"uu:E": echo_async})
    with pytest.raises(UsageError, match="does not name its service"):
        relayrpc.server(relay_hub.url(), handlers=(Nameless(),))
    with pytest.raises(ValueError, match="must be a"):
        relayrpc.server(relay_hub.url(), interceptors=(object(),))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="xds"):
        relayrpc.server(relay_hub.url(), xds=True)
    with pytest.raises(ConfigError):
        relayrpc.server("http://hub/a")


def test_handlers_are_added_before_the_start(relay_hub: HubThread) -> None:
    server = make_server(relay_hub, {"uu:E": echo})
    server.start()
    with pytest.raises(UsageError, match="before the server is started"):
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:F": echo}))
    server.stop(None)


def test_server_that_finds_no_hub_says_so_and_leaves_nothing(
    unused_tcp_port: int, threads_of: ThreadsOf
) -> None:
    server = relayrpc.server(f"ws://127.0.0.1:{unused_tcp_port}/a")
    server.add_registered_method_handlers("test.Service", make_handlers({"uu:E": echo}))
    with pytest.raises(ConnectError):
        server.start()
    assert not threads_of("server")
    assert server.stop(None).is_set()


def test_server_that_is_replaced_says_so(relay_hub: HubThread) -> None:
    servers = [make_server(relay_hub, {"uu:E": echo}, instance="one") for _ in range(2)]
    for server in servers:
        server.start()
    with pytest.raises(LinkRefusedError):
        servers[0].wait_for_termination()
    for server in servers:
        server.stop(None)


def test_nothing_is_left_of_a_stopped_server(relay_hub: HubThread, threads_of: ThreadsOf) -> None:
    server = make_server(relay_hub, {"uu:E": echo})
    server.start()
    assert server.stop(None).is_set()
    assert not threads_of("server")
    server = make_server(relay_hub, {"uu:E": echo})
    server.start()
    [thread] = threads_of("server")
    server.stop(60).wait()
    thread.join()


def test_exception_of_a_handler_stays_at_the_host(
    relay_hub: HubThread, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: bytes, context: Any) -> bytes:
        raise ValueError("a secret")

    server = make_server(relay_hub, {"uu:M": fail})
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        with pytest.raises(relayrpc.RpcError) as caught:
            channel.unary_unary("/test.Service/M")(b"")
        assert re.fullmatch("the handler failed, incident [0-9a-f]{8}", caught.value.details())
        assert (caught.value.origin, caught.value.may_have_executed) == ("host", True)
    assert "a secret" in caplog.text
    server.stop(None)


def test_request_that_cannot_be_deserialized_in_a_stream_ends_the_call(
    relay_hub: HubThread,
) -> None:
    """Grpc's own server never answers."""

    def fail(_: bytes) -> Any:
        raise ValueError("no")

    def register(server: Any) -> None:
        handler = grpc.stream_unary_rpc_method_handler(join, fail, None)
        server.add_registered_method_handlers("test.Service", {"J": handler})

    with serving("relay", relay_hub, register=register) as channel:
        with pytest.raises(relayrpc.RpcError) as caught:
            channel.stream_unary("/test.Service/J")(iter([b"1"]))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "Exception deserializing request!"
        assert caught.value.may_have_executed


def test_thread_that_outlives_its_call_counts_until_it_returns(relay_hub: HubThread) -> None:
    """Else callers with short deadlines could pile up calls behind a handler that hangs."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def hang(request: bytes, context: Any) -> bytes:
        entered.release()
        go_on.wait()
        return b""

    server = make_server(relay_hub, {"uu:M": hang}, maximum_concurrent_rpcs=1)
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        stub = channel.unary_unary("/test.Service/M")
        future = stub.future(b"")
        entered.acquire()
        future.cancel()
        with pytest.raises(relayrpc.RpcError) as caught:
            stub(b"")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        while isinstance(stub.future(b"").exception(), relayrpc.RpcError):
            pass
    server.stop(None)


def test_stop_does_not_wait_for_a_thread_that_hangs(relay_hub: HubThread) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang(request: bytes, context: Any) -> bytes:
        entered.set()
        go_on.wait()
        return b""

    server = make_server(relay_hub, {"uu:M": hang})
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        future = channel.unary_unary("/test.Service/M").future(b"")
        entered.wait()
        assert server.stop(None).is_set()
        assert future.exception() is not None
    go_on.set()


def test_stop_tells_calls_that_no_thread_had_that_they_did_not_run(relay_hub: HubThread) -> None:
    entered, go_on = threading.Event(), threading.Event()
    begun: list[bytes] = []

    def hang(request: bytes, context: Any) -> bytes:
        begun.append(request)
        entered.set()
        go_on.wait()
        return b""

    with ThreadPoolExecutor(1) as pool:
        server = make_server(relay_hub, {"uu:M": hang}, thread_pool=pool)
        server.start()
        with relayrpc.channel(relay_hub.url()) as channel:
            stub = channel.unary_unary("/test.Service/M")
            running = stub.future(b"1")
            entered.wait()
            waiting = stub.future(b"2")
            while len(server.core._contexts) < 2:
                pass
            server.stop(None)
            for future, may_have_executed in ((running, True), (waiting, False)):
                error: Any = future.exception()
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert error.may_have_executed == may_have_executed
        go_on.set()
    assert begun == [b"1"]


def test_server_may_be_stopped_by_a_handler(relay_hub: HubThread) -> None:
    stopped: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()

    def stop(request: bytes, context: Any) -> bytes:
        stopped.put(server.stop(60))
        return b"stopping"

    server = make_server(relay_hub, {"uu:M": stop})
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        assert channel.unary_unary("/test.Service/M")(b"") == b"stopping"
    assert stopped.get().wait(60)
    assert not server.wait_for_termination()


def test_calls_are_refused_when_the_pool_was_shut_down(relay_hub: HubThread) -> None:
    pool = ThreadPoolExecutor(1)
    server = make_server(relay_hub, {"uu:E": echo}, thread_pool=pool)
    server.start()
    pool.shutdown()
    with relayrpc.channel(relay_hub.url()) as channel:
        with pytest.raises(relayrpc.RpcError) as caught:
            channel.unary_unary("/test.Service/E")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (caught.value.origin, caught.value.may_have_executed) == ("host", False)
    server.stop(None)


def test_response_stream_waits_for_a_caller_that_does_not_read(relay_hub: HubThread) -> None:
    """A generator is not run far ahead of its reader: what it gives would pile up at the host."""
    given = 0

    def give(request: bytes, context: Any) -> Iterator[bytes]:
        nonlocal given
        for _ in range(300):
            given += 100_000
            yield bytes(100_000)

    with serving("relay", relay_hub, {"us:G": give}) as channel:
        call = channel.unary_stream("/test.Service/G")(b"")
        assert len(next(call)) == 100_000
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=1)
        assert given < 20_000_000
        assert sum(map(len, call)) == 29_900_000


async def test_closing_leaves_nothing_to_the_loops_of_others() -> None:
    """Whichever loop wakes gets what gRPC has for any of a process; closed ones raise."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with run_hub() as hub:
        server = hub.server("a", carrier="grpc")
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:E": echo_async}))
        await server.start()

        def open_call_and_close() -> None:
            with (
                relayrpc.channel(hub.url("a"), carrier="grpc") as channel,
                ThreadPoolExecutor(8) as pool,
            ):
                stub = channel.unary_unary("/test.Service/E")
                assert list(pool.map(stub, [b"x"] * 32)) == [b"x"] * 32

        for _ in range(12):
            await asyncio.to_thread(open_call_and_close)
    assert told == []
