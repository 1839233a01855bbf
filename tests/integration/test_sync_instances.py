"""
Goal: service objects with plain handlers are what they are with async ones: which object serves,
how many handlers it has at once, nested calls, and a deadlock that is told.

Method: a hub on a thread of its own, blocking callers, and hosts of both kinds: blocking ones, and
async ones on the hub's loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import relayrpc
from tests.support import session_contract
from tests.support.blocking import HubThread, hosting
from tests.support.relay import Stub, make_handlers


pytestmark = pytest.mark.integration

KINDS = pytest.mark.parametrize("kind", ["blocking", "async"])
MODES = pytest.mark.parametrize("mode", ["per_call", "per_session", "single"])


class Recorder:
    """What happened to the objects of one test."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made = 0
        self.closed = threading.Semaphore(0)
        self.running = threading.Semaphore(0)
        self.most_running = 0
        self.go_on = threading.Event()


class Servicer:
    """Numbered objects, which say their number; `Wait` until the test goes on."""

    def __init__(self, recorder: Recorder) -> None:
        with recorder.lock:
            recorder.made += 1
            self.number = recorder.made
        self._recorder = recorder
        self._running = 0

    def Number(self, request: bytes, context: Any) -> bytes:
        return b"%d" % self.number

    def Wait(self, request: bytes, context: Any) -> bytes:
        recorder = self._recorder
        with recorder.lock:
            self._running += 1
            recorder.most_running = max(recorder.most_running, self._running)
        recorder.running.release()
        recorder.go_on.wait()
        with recorder.lock:
            self._running -= 1
        return request

    def Call(self, request: bytes, context: Any) -> bytes:
        """Have the caller called back, to a depth, in each of the ways to wait."""
        depth = int(request)
        if not depth:
            return b"%d" % self.number
        stub, request = events(context.caller()), b"%d" % (depth - 1)
        if depth % 3 == 0:
            [reply] = stub.unary_stream("TellAll")(request)
        elif depth % 3 == 1:
            reply = stub.unary_unary("Tell").future(request).result()
        else:
            reply = stub.unary_unary("Tell")(request)
        return b"%d>" % self.number + reply

    def Note(self, request: bytes, context: Any) -> bytes:
        """Have the caller told something, and wait for no answer of its handler."""
        notes = Stub(context.caller(), session_contract.NOTES)
        notes.unary_unary("Note")(request)
        return b""

    def close(self) -> None:
        self._recorder.closed.release()


def events(channel: Any) -> Stub:
    return Stub(channel, "test.Events")


def adding(servicer: Any) -> Callable[[Any], None]:
    names = ("Number", "Wait", "Call", "Note")
    methods = {f"uu:{name}": getattr(servicer, name) for name in names}

    def add_to(server: Any) -> None:
        server.add_registered_method_handlers("test.Service", make_handlers(methods))

    return add_to


def make_servicer(
    recorder: Recorder, instances: Any, concurrency: Any = "multiple", **options: Any
) -> Any:
    cls = relayrpc.service(instances=instances, concurrency=concurrency)(
        type("Counted", (Servicer,), {})
    )
    options.setdefault("factory", lambda: cls(recorder))
    return relayrpc.servicer(cls, **options)


class Listener:
    """Calls the host again when it is called back, through its own session or channel."""

    def __init__(self) -> None:
        self.channel: Any = None
        self.noted = threading.Event()

    def tell(self, request: bytes, context: Any) -> bytes:
        reply: bytes = Stub(self.channel).unary_unary("Call")(request)
        return reply

    def tell_all(self, request: bytes, context: Any) -> Any:
        yield self.tell(request, context)

    def note(self, request: bytes, context: Any) -> bytes:
        self.noted.set()
        return b""


def add_listener(listener: Listener, server: grpc.Server) -> None:
    methods = {"uu:Tell": listener.tell, "us:TellAll": listener.tell_all}
    server.add_registered_method_handlers("test.Events", make_handlers(methods))
    handlers = make_handlers({"uu:Note": listener.note})
    server.add_registered_method_handlers(session_contract.NOTES, handlers)


def calling(hub: HubThread, listener: Listener) -> relayrpc.Channel:
    return relayrpc.channel(hub.url(), callbacks=[(add_listener, listener)])


@KINDS
@pytest.mark.parametrize(
    ("mode", "outside", "inside"),
    [
        ("per_call", [b"1", b"2"], [b"3", b"4", b"5", b"6"]),
        ("per_session", [b"1", b"2"], [b"3", b"3", b"4", b"4"]),
        ("single", [b"1", b"1"], [b"1", b"1", b"1", b"1"]),
    ],
)
def test_which_object_serves(
    relay_hub: HubThread, kind: str, mode: str, outside: list[bytes], inside: list[bytes]
) -> None:
    recorder = Recorder()
    with (
        hosting(relay_hub, kind, adding(make_servicer(recorder, mode))),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        number = Stub(channel).unary_unary("Number")
        assert [number(b"") for _ in range(2)] == outside
        numbers = []
        for _ in range(2):
            with channel.session() as session:
                number = Stub(session).unary_unary("Number")
                numbers += [number(b"") for _ in range(2)]
        assert numbers == inside
        if mode != "single":
            for _ in range(recorder.made):
                recorder.closed.acquire()
            recorder.closed.release(recorder.made)
    for _ in range(recorder.made):
        recorder.closed.acquire()
    assert not recorder.closed.acquire(blocking=False)


@KINDS
@pytest.mark.parametrize(
    ("concurrency", "at_once"), [("single", 1), ("reentrant", 1), ("multiple", 4)]
)
def test_how_many_at_once(
    relay_hub: HubThread, kind: str, concurrency: str, at_once: int
) -> None:
    recorder = Recorder()
    with (
        hosting(relay_hub, kind, adding(make_servicer(recorder, "single", concurrency))),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        wait = Stub(channel).unary_unary("Wait")
        futures = [wait.future(b"%d" % number) for number in range(4)]
        for _ in range(at_once):
            recorder.running.acquire()
        recorder.go_on.set()
        assert [each.result() for each in futures] == [b"0", b"1", b"2", b"3"]
    assert recorder.most_running == at_once


@KINDS
@pytest.mark.parametrize("mode", ["per_session", "single"])
@pytest.mark.parametrize("concurrency", ["reentrant", "multiple"])
def test_nested_calls(relay_hub: HubThread, kind: str, mode: str, concurrency: str) -> None:
    """The same object: A, callback, A, callback, A, and so on; several of them in one session."""
    recorder, listener = Recorder(), Listener()
    with (
        hosting(relay_hub, kind, adding(make_servicer(recorder, mode, concurrency))),
        calling(relay_hub, listener) as channel,
        channel.session() as session,
    ):
        listener.channel = session
        call = Stub(session).unary_unary("Call")
        futures = [call.future(b"3", timeout=60) for _ in range(3)]
        assert {each.result() for each in futures} == {b"1>1>1>1"}


@KINDS
def test_reentrant_across_sessions(relay_hub: HubThread, kind: str) -> None:
    """Callers of one object, each called back, and calling again, while others wait."""
    recorder = Recorder()
    # What waits on a callback counts as a call: those within it need places too.
    throttle = relayrpc.Throttle(calls=100)
    servicer = make_servicer(recorder, "single", "reentrant", throttle=throttle)
    with hosting(relay_hub, kind, adding(servicer)), ThreadPoolExecutor(4) as pool:

        def work(_: int) -> bytes:
            listener = Listener()
            with calling(relay_hub, listener) as channel, channel.session() as session:
                listener.channel = session
                reply: bytes = Stub(session).unary_unary("Call")(b"3", timeout=60)
                return reply

        assert list(pool.map(work, range(8))) == [b"1>1>1>1"] * 8
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


@KINDS
@MODES
def test_a_deadlock_is_told_at_once(
    relay_hub: HubThread, kind: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, listener = Recorder(), Listener()
    with (
        hosting(relay_hub, kind, adding(make_servicer(recorder, mode, "single"))),
        calling(relay_hub, listener) as channel,
        channel.session() as session,
    ):
        for depth in (b"1", b"2", b"3"):
            with pytest.raises(relayrpc.RpcError) as caught:
                Stub(session).unary_unary("Call")(depth)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert Stub(session).unary_unary("Call")(b"0") != b""
        # Nobody waits for the handler of a one-way callback.
        assert Stub(session).unary_unary("Note")(b"x") == b""
        listener.noted.wait()
    assert caplog.text.count("test.Service/Call would deadlock") == 3
    assert "concurrency='reentrant'" in caplog.text
