"""
Goal: a blocking session is what an async one is: its calls go to one host, in order, from any
thread; its end is told; no error is hidden.

Method: blocking hosts and callers, and a hub on a thread of its own.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc import SessionState
from tests.support import blocking, session_contract
from tests.support.blocking import HubThread
from tests.support.relay import Stub, make_handlers


pytestmark = pytest.mark.integration


class Host:
    """A server whose handlers say its name, one at a time; `Wait` until the test goes on."""

    def __init__(self, hub: HubThread, name: str) -> None:
        self.name = name.encode()
        self.served: list[bytes] = []
        self.waiting = threading.Event()
        self.go_on = threading.Event()
        # Alone, handlers begin in the order of their calls.
        self._pool = ThreadPoolExecutor(1)
        self.server = relayrpc.server(hub.url(), self._pool, instance=name)
        methods = {
            "uu:Put": self.put,
            "uu:Wait": self.wait,
            "us:Repeat": lambda request, _: iter([request] * 3),
            "su:Join": lambda requests, _: b",".join(requests),
            "ss:Echo": lambda requests, _: requests,
        }
        self.server.add_registered_method_handlers("test.Service", make_handlers(methods))
        self.server.start()

    def put(self, request: bytes, context: Any) -> bytes:
        self.served.append(request)
        return self.name + b":" + request

    def wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        self.go_on.wait()
        return request

    def stop(self) -> None:
        self.go_on.set()
        self.server.stop(None)
        self._pool.shutdown()


@contextlib.contextmanager
def hosting(hub: HubThread, *names: str) -> Iterator[list[Host]]:
    hosts = [Host(hub, name) for name in names or ("host",)]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.stop()


@contextlib.contextmanager
def failing(code: grpc.StatusCode, details: str) -> Iterator[None]:
    with pytest.raises(relayrpc.RpcError) as caught:
        yield
    assert (caught.value.code(), caught.value.details()) == (code, details)


def states_of(session: relayrpc.Session) -> queue.SimpleQueue[SessionState]:
    states: queue.SimpleQueue[SessionState] = queue.SimpleQueue()
    session.add_state_callback(states.put)
    return states


def test_calls_go_to_the_host_of_the_first_in_order(relay_hub: HubThread) -> None:
    with (
        hosting(relay_hub, "a", "b", "c") as hosts,
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        for _ in range(3):
            with channel.session() as session:
                states = states_of(session)
                assert session.state is SessionState.CREATED
                put = Stub(session).unary_unary("Put")
                requests = [b"%d" % number for number in range(20)]
                futures = [put.future(request) for request in requests]
                name = session.instance.encode() or futures[0].result()[:1]
                assert [f.result() for f in futures] == [name + b":" + r for r in requests]
                assert session.instance.encode() == name
                [host] = [host for host in hosts if host.name == name]
                assert host.served == requests
                host.served.clear()
            assert session.state is SessionState.CLOSED
            assert [states.get() for _ in range(4)] == [
                SessionState.OPENING,
                SessionState.OPENED,
                SessionState.CLOSING,
                SessionState.CLOSED,
            ]
        assert not channel.core.open_calls()


def test_every_shape_may_be_the_first_call(relay_hub: HubThread) -> None:
    with hosting(relay_hub), relayrpc.channel(relay_hub.url()) as channel:
        sent = [b"x" * 100_000, b"", b"y"]
        checks = [
            lambda stub: Stub.unary_unary(stub, "Put")(b"1") == b"host:1",
            lambda stub: list(Stub.unary_stream(stub, "Repeat")(b"1")) == [b"1"] * 3,
            lambda stub: Stub.stream_unary(stub, "Join")(iter(sent)) == b",".join(sent),
            lambda stub: list(Stub.stream_stream(stub, "Echo")(iter(sent))) == sent,
        ]
        for number in range(len(checks)):
            with channel.session() as session:
                for check in checks[number:] + checks[:number]:
                    assert check(Stub(session))


def test_sixteen_threads_share_a_session(relay_hub: HubThread) -> None:
    with (
        hosting(relay_hub, "a", "b") as hosts,
        relayrpc.channel(relay_hub.url()) as channel,
        channel.session() as session,
        ThreadPoolExecutor(16) as pool,
    ):
        put = Stub(session).unary_unary("Put")
        requests = [b"%d" % number for number in range(160)]
        replies = list(pool.map(put, requests))
        name = session.instance.encode()
        assert replies == [name + b":" + request for request in requests]
        assert sorted(len(host.served) for host in hosts) == [0, 160]


def test_calls_that_were_made_finish_when_the_block_is_left(relay_hub: HubThread) -> None:
    """Those too that had to wait until the session was open."""
    with hosting(relay_hub), relayrpc.channel(relay_hub.url()) as channel:
        with channel.session() as session:
            futures = [Stub(session).unary_unary("Put").future(b"%d" % n) for n in range(3)]
        assert [future.result() for future in futures] == [b"host:0", b"host:1", b"host:2"]


def test_closing_aborts_what_does_not_finish(relay_hub: HubThread) -> None:
    with hosting(relay_hub), relayrpc.channel(relay_hub.url()) as channel:
        session = channel.session()
        future = Stub(session).unary_unary("Wait").future(b"")
        session.close(grace=0.05)
        assert future.cancelled()
        assert session.state is SessionState.CLOSED


def test_a_call_after_the_end_says_why(relay_hub: HubThread) -> None:
    with hosting(relay_hub) as [host], relayrpc.channel(relay_hub.url()) as channel:
        never_used = channel.session()
        with channel.session() as session:
            Stub(session).unary_unary("Put")(b"1")
        for over in (session, never_used):
            over.close()
            over.close()
            with pytest.raises(ValueError, match="closed channel"):
                Stub(over).unary_unary("Put")(b"2")
            with pytest.raises(ValueError, match="closed channel"):
                over.add_state_callback(print)
        session = channel.session()
        states = states_of(session)
        Stub(session).unary_unary("Put")(b"3")
        host.server.stop(None)
        while states.get() is not SessionState.FAULTED:
            pass
        why = "the session is faulted: the host stopped"
        assert session.fault == "the host stopped"
        with failing(grpc.StatusCode.FAILED_PRECONDITION, why):
            Stub(session).unary_unary("Put")(b"4")
        session.close()
        assert session.state is SessionState.FAULTED


def test_a_host_that_is_lost_faults_the_session(relay_hub: HubThread) -> None:
    with (
        hosting(relay_hub, "a") as [host],
        relayrpc.channel(relay_hub.url()) as channel,
        channel.session() as session,
    ):
        stub = Stub(session)
        stub.unary_unary("Put")(b"1")
        running = stub.unary_unary("Wait").future(b"2")
        host.waiting.wait()
        with hosting(relay_hub, "b") as [other]:
            host.server.portal.run(host.server.core.live.aclose())
            error = running.exception()
            assert isinstance(error, relayrpc.RpcError)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(relayrpc.RpcError, match="the session is faulted"):
                stub.unary_unary("Put")(b"3")
            assert session.state is SessionState.FAULTED
            assert other.served == []


def test_leaving_the_block_after_an_error_hides_nothing(relay_hub: HubThread) -> None:
    with hosting(relay_hub) as [host], relayrpc.channel(relay_hub.url()) as channel:
        with pytest.raises(KeyError, match="mine"), channel.session() as session:
            Stub(session).unary_unary("Put")(b"1")
            running = Stub(session).unary_unary("Wait").future(b"2")
            host.waiting.wait()
            raise KeyError("mine")
        assert running.cancelled()
        assert session.state is SessionState.CLOSED
        with failing(grpc.StatusCode.FAILED_PRECONDITION, "the session is closed"):
            Stub(session).unary_unary("Put")(b"3")


def test_a_session_that_nobody_refers_to_is_given_up(relay_hub: HubThread) -> None:
    """When the calls that were made in it are over."""
    with hosting(relay_hub) as [host], relayrpc.channel(relay_hub.url()) as channel:
        Stub(channel.session()).unary_unary("Put")(b"1")
        future = Stub(channel.session()).unary_unary("Wait").future(b"2")
        host.waiting.wait()
        while len(host.server.core.sessions) > 1:
            pass
        host.go_on.set()
        assert future.result() == b"2"
        del future
        while len(host.server.core.sessions):
            channel.portal.handover.call(gc.collect)


def test_closing_the_channel_ends_its_sessions(relay_hub: HubThread) -> None:
    with hosting(relay_hub) as [host]:
        channel = relayrpc.channel(relay_hub.url())
        session, unused = channel.session(), channel.session()
        stub = Stub(session)
        stub.unary_unary("Put")(b"1")
        running = stub.unary_unary("Wait").future(b"2")
        host.waiting.wait()
        told = threading.Thread(target=session.close)
        told.start()
        channel.close()
        told.join()
        with failing(grpc.StatusCode.CANCELLED, "Channel closed!"):
            running.result()
        for each in (session, unused):
            assert each.state is SessionState.CLOSED
            with pytest.raises(ValueError, match="closed channel"):
                Stub(each).unary_unary("Put")(b"3")
            each.close()
            each.abort()
        with pytest.raises(ValueError, match="closed channel"):
            channel.session()


def test_threads_that_call_while_the_session_ends_are_all_told(relay_hub: HubThread) -> None:
    def work(put: Any) -> str:
        try:
            while True:
                put(b"x")
        except (ValueError, relayrpc.RpcError) as error:
            return str(error) if isinstance(error, ValueError) else error.details()

    closed = "Cannot invoke RPC on closed channel!"
    ways = {
        "close": {closed},
        "abort": {"the session is closed", "Locally cancelled by application!"},
    }
    with (
        hosting(relay_hub),
        relayrpc.channel(relay_hub.url()) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        for way in ["close", "abort"] * 3:
            session = channel.session()
            put = Stub(session).unary_unary("Put")
            put(b"x")
            told = [pool.submit(work, put) for _ in range(8)]
            getattr(session, way)()
            assert {each.result() for each in told} <= ways[way]


def test_interceptors_are_put_before_a_session_as_before_a_channel(relay_hub: HubThread) -> None:
    class Mark(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio has no types
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request + b"!")

    with (
        hosting(relay_hub),
        relayrpc.channel(relay_hub.url()) as channel,
        channel.session() as session,
    ):
        intercepted = grpc.intercept_channel(session, Mark())
        assert Stub(intercepted).unary_unary("Put")(b"1") == b"host:1!"


def test_no_host_ends_the_first_call_as_without_a_session(relay_hub: HubThread) -> None:
    with (
        relayrpc.channel(relay_hub.url("nowhere")) as channel,
        channel.session() as session,
    ):
        put = Stub(session).unary_unary("Put")
        with failing(grpc.StatusCode.UNAVAILABLE, "no host listens at 'nowhere'"):
            put(b"1")
        with failing(
            grpc.StatusCode.FAILED_PRECONDITION,
            "the session is faulted: no host listens at 'nowhere'",
        ):
            put(b"2")


def test_a_session_whose_first_call_is_over_is_taken_by_no_host_later(
    relay_hub: HubThread,
) -> None:
    with relayrpc.channel(relay_hub.url()) as channel:
        with channel.session() as session:
            put = Stub(session).unary_unary("Put")
            with pytest.raises(relayrpc.RpcError, match="Deadline Exceeded"):
                put(b"1", timeout=0.05, wait_for_ready=True)
            with failing(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the session is faulted: its first call was over before a host had taken it",
            ):
                put(b"2")
        with hosting(relay_hub), channel.session() as other:
            assert Stub(other).unary_unary("Put")(b"3", wait_for_ready=True) == b"host:3"


def test_what_the_contract_does_not_allow_is_refused(relay_hub: HubThread) -> None:
    server = relayrpc.server(relay_hub.url("accounts"))
    methods = {f"uu:{name}": lambda request, _: request for name in ("Open", "Put", "Close")}
    server.add_registered_method_handlers(session_contract.SERVICE, make_handlers(methods))
    server.start()
    with relayrpc.channel(relay_hub.url("accounts")) as channel:
        with pytest.raises(relayrpc.RpcError, match="within a session only"):
            Stub(channel, session_contract.SERVICE).unary_unary("Put")(b"")
        with channel.session() as session:
            states = states_of(session)
            account = Stub(session, session_contract.SERVICE)
            with pytest.raises(relayrpc.RpcError, match="may not be the first call"):
                account.unary_unary("Put")(b"")
            assert account.unary_unary("Open")(b"1") == b"1"
            assert account.unary_unary("Close")(b"2") == b"2"
            while states.get() is not SessionState.CLOSED:
                pass
            with failing(grpc.StatusCode.FAILED_PRECONDITION, "the session is closed"):
                account.unary_unary("Put")(b"")
    server.stop(None)


def test_a_handler_closes_a_session_that_is_over_and_nothing_is_left(relay_hub: HubThread) -> None:
    """Its call is no callback of that session."""
    closings: list[Any] = []

    def call(request: bytes, context: Any) -> bytes:
        with relayrpc.channel(relay_hub.url()) as channel:
            session = channel.session()
            Stub(session).unary_unary("Echo")(b"")
            session.abort()
            session.close()
            closings.append(session.core._closing)
        return b""

    def add(server: Any) -> None:
        methods = {"uu:Call": call, "uu:Echo": lambda request, context: request}
        server.add_registered_method_handlers("test.Service", make_handlers(methods))

    with (
        blocking.hosting(relay_hub, "blocking", add),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        Stub(channel).unary_unary("Call")(b"")
    assert closings == [None]
