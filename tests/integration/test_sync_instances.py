"""
Goal: service objects with plain handlers are what they are with async ones: which object serves,
how many handlers it has at once, nested calls, and a deadlock that is told.

Method: a hub on a thread of its own, blocking callers, and hosts of both kinds: blocking ones, and
async ones on the hub's loop.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

import relayrpc
from relayrpc.errors import UsageError
from relayrpc.limits import DEFAULT_LIMITS
from tests.support import session_contract
from tests.support.blocking import HubThread, hosting
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Stub, make_handlers
from tests.support.until import until


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

    def Numbers(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(int(request)):
            yield b"%d" % self.number

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
    methods["us:Numbers"] = servicer.Numbers

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
        # But of one that does not go in one piece.
        with pytest.raises(relayrpc.RpcError):
            Stub(session).unary_unary("Note")(bytes(70_000))
    assert caplog.text.count("test.Service/Call would deadlock") == 3
    assert caplog.text.count("test.Service/Note would deadlock") == 1
    assert "concurrency='reentrant'" in caplog.text


def test_objects_serve_at_one_blocking_server_at_a_time(relay_hub: HubThread) -> None:
    servicer = make_servicer(Recorder(), "single", "single")
    with hosting(relay_hub, "blocking", adding(servicer)):
        second = relayrpc.server(relay_hub.url("contoso/second"))
        adding(servicer)(second)
        with pytest.raises(UsageError, match="serves at another server"):
            second.start()
        with relayrpc.channel(relay_hub.url()) as channel:
            assert Stub(channel).unary_unary("Number")(b"") == b"1"
    with (
        hosting(relay_hub, "blocking", adding(servicer)),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        assert Stub(channel).unary_unary("Number")(b"") == b"2"


# --- threads that outlive their calls ---


@KINDS
@pytest.mark.parametrize("intercepted", ["not", "passed", "wrapped"])
def test_a_thread_has_its_object_until_it_returns(
    relay_hub: HubThread, kind: str, intercepted: str
) -> None:
    """Though its call is over: else two threads would be in an object that takes one."""
    recorder = Recorder()
    servicer = make_servicer(recorder, "single", "single")
    options = intercepting(kind, intercepted)
    with (
        hosting(relay_hub, kind, adding(servicer), **options),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        wait = Stub(channel).unary_unary("Wait")
        first = wait.future(b"1")
        recorder.running.acquire()
        first.cancel()

        def has_come() -> bool:
            """The second call waits for the object."""
            return servicer.throttle.counts["calls"] == 2

        for timeout_s in DEADLINES_S:
            late = wait.future(b"2", timeout=timeout_s)
            relay_hub.run(until(lambda late=late: has_come() or late.done()))
            is_in_time = has_come()
            with pytest.raises(TimeoutError):
                late.result()
            if is_in_time:
                break
        # Its host may be told a moment later.
        relay_hub.run(until(lambda: servicer.throttle.counts["calls"] == 1))
        recorder.go_on.set()
        assert wait(b"3") == b"3"
        recorder.running.acquire()
        # The second had its end before its turn.
        assert not recorder.running.acquire(blocking=False)
    assert recorder.most_running == 1


@KINDS
def test_a_sessions_object_is_not_closed_under_a_thread(relay_hub: HubThread, kind: str) -> None:
    recorder = Recorder()
    over = threading.Event()

    class Told(Servicer):
        def Number(self, request: bytes, context: Any) -> bytes:
            context.session.add_done_callback(lambda _: over.set())
            return b""

        def close(self) -> None:
            assert self._running == 0
            super().close()

    cls = relayrpc.service(instances="per_session")(Told)
    servicer = relayrpc.servicer(cls, factory=lambda: Told(recorder))
    with (
        hosting(relay_hub, kind, adding(servicer)) as server,
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        session = channel.session()
        Stub(session).unary_unary("Number")(b"")
        future = Stub(session).unary_unary("Wait").future(b"")
        recorder.running.acquire()
        session.abort()
        assert future.cancelled()
        sessions = server.core.sessions if kind == "blocking" else server.sessions
        while len(sessions):
            pass
        assert not over.is_set()
        assert not recorder.closed.acquire(blocking=False)
        recorder.go_on.set()
        over.wait()
        recorder.closed.acquire()


@KINDS
def test_stopping_ends_the_session_of_a_thread_that_hangs(
    relay_hub: HubThread, kind: str
) -> None:
    recorder = Recorder()
    with relayrpc.channel(relay_hub.url()) as channel, channel.session() as session:
        with hosting(relay_hub, kind, adding(make_servicer(recorder, "per_session"))):
            future = Stub(session).unary_unary("Wait").future(b"")
            recorder.running.acquire()
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        recorder.go_on.set()
        while session.state is not relayrpc.SessionState.FAULTED:
            pass
        assert session.fault == "the host stopped"


# --- closing ---


class ClosesNever(Servicer):
    def close(self) -> None:
        super().close()
        self._recorder.go_on.wait()


class IsLeftNever(Servicer):
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self._recorder.go_on.wait()


@pytest.mark.parametrize("of_class", [ClosesNever, IsLeftNever])
@MODES
def test_closing_that_never_ends_is_given_up(
    relay_hub: HubThread, mode: Any, of_class: type[Servicer], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    cls = relayrpc.service(instances=mode, concurrency="multiple")(type("Hangs", (of_class,), {}))
    limits = replace(DEFAULT_LIMITS, object_close_timeout_s=0.2)
    throttle = relayrpc.Throttle(calls=1, instances=1)
    servicer = relayrpc.servicer(cls, factory=lambda: cls(recorder), throttle=throttle)
    server = relayrpc.server(relay_hub.url(), limits=limits)
    adding(servicer)(server)
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        for _ in range(2):
            with channel.session() as session:
                assert Stub(session).unary_unary("Number")(b"", timeout=20)
            assert Stub(channel).unary_unary("Number")(b"", timeout=20)
    assert server.stop(0.1).wait(20)
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
    text = "closing an object of test.Service, a Hangs, takes more than 0.2 s"
    assert caplog.text.count(text) == recorder.made == (1 if mode == "single" else 4)
    recorder.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "relayrpc-close":
            thread.join()


class MadeNever:
    """A factory that does not return before the test is over."""

    def __init__(self) -> None:
        self.is_called = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> Any:
        self.is_called.set()
        self.go_on.wait()
        return Servicer(Recorder())


@MODES
def test_making_that_never_ends_does_not_keep_a_server_from_stopping(
    relay_hub: HubThread, mode: Any
) -> None:
    limits = replace(DEFAULT_LIMITS, object_close_timeout_s=0.2)
    factory = MadeNever()
    servicer = make_servicer(Recorder(), mode, factory=factory)
    server = relayrpc.server(relay_hub.url(), limits=limits)
    adding(servicer)(server)
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        future: Any = Stub(channel).unary_unary("Number").future(b"")
        factory.is_called.wait()
        server.stop(None)
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert not future.exception().may_have_executed
    factory.go_on.set()


@MODES
def test_making_that_never_ends_does_not_keep_a_channel_from_closing(
    relay_hub: HubThread, mode: Any
) -> None:
    limits = replace(DEFAULT_LIMITS, object_close_timeout_s=0.2)
    factory = MadeNever()
    ends: queue.SimpleQueue[grpc.StatusCode] = queue.SimpleQueue()

    def call(request: bytes, context: Any) -> bytes:
        try:
            Stub(context.caller()).unary_unary("Number")(b"")
        except relayrpc.RpcError as error:
            ends.put(error.code())
        return b""

    def add(server: Any) -> None:
        server.add_registered_method_handlers("test.Host", make_handlers({"uu:Call": call}))

    servicer = make_servicer(Recorder(), mode, factory=factory)
    callbacks = [(lambda each, server: adding(each)(server), servicer)]
    with hosting(relay_hub, "blocking", add):
        with relayrpc.channel(relay_hub.url(), callbacks=callbacks, limits=limits) as channel:
            future = Stub(channel, "test.Host").unary_unary("Call").future(b"")
            factory.is_called.wait()
        assert future.done()
        assert ends.get() is grpc.StatusCode.UNAVAILABLE
    factory.go_on.set()


@pytest.mark.parametrize("intercepted", ["not", "wrapped"])
def test_the_places_of_a_thread_that_outlives_its_server_are_free_at_the_next(
    relay_hub: HubThread, intercepted: str
) -> None:
    recorder = Recorder()
    throttle = relayrpc.Throttle(calls=1)
    servicer = make_servicer(recorder, "per_call", throttle=throttle)
    options = intercepting("blocking", intercepted)
    server = relayrpc.server(relay_hub.url(), **options)
    adding(servicer)(server)
    server.start()
    with relayrpc.channel(relay_hub.url()) as channel:
        running: Any = Stub(channel).unary_unary("Wait").future(b"")
        recorder.running.acquire()
        assert server.stop(0).wait(60)
        assert running.code() is grpc.StatusCode.UNAVAILABLE
        assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
        with hosting(relay_hub, "blocking", adding(servicer), **options):
            assert Stub(channel).unary_unary("Number")(b"") == b"2"
            recorder.go_on.set()
            assert Stub(channel).unary_unary("Number")(b"") == b"3"
    assert throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


# --- interceptors ---


class Passes(grpc.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Changes nothing, or puts a function of its own around the handler's, or in its place."""

    def __init__(self, what: str) -> None:
        self._what = what

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return self.change(continuation(details), details)

    def change(self, handler: Any, details: Any) -> Any:
        if self._what == "refused" and ("token", "good") not in details.invocation_metadata:
            return grpc.unary_unary_rpc_method_handler(refuse)
        if self._what != "wrapped":
            return handler
        behavior = handler.unary_unary or handler.unary_stream

        @functools.wraps(behavior)
        def wrapper(request: Any, context: Any) -> Any:
            return behavior(request, context)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(wrapper)
        return grpc.unary_unary_rpc_method_handler(wrapper)


class PassesAsync(Passes, grpc.aio.ServerInterceptor):  # type: ignore[misc]
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return self.change(await continuation(details), details)


def refuse(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
    raise AssertionError


def intercepting(kind: str, what: str) -> dict[str, Any]:
    if what == "not":
        return {}
    return {"interceptors": [Passes(what) if kind == "blocking" else PassesAsync(what)]}


@KINDS
@MODES
@pytest.mark.parametrize("what", ["passed", "wrapped"])
def test_interceptors_before_a_servicer_with_objects(
    relay_hub: HubThread, kind: str, mode: str, what: str
) -> None:
    recorder, listener = Recorder(), Listener()
    servicer = make_servicer(recorder, mode, "reentrant")
    with (
        hosting(relay_hub, kind, adding(servicer), **intercepting(kind, what)),
        calling(relay_hub, listener) as channel,
        channel.session() as session,
    ):
        listener.channel = session
        if mode != "per_call":
            assert Stub(session).unary_unary("Call")(b"3", timeout=60) == b"1>1>1>1"
            assert list(Stub(session).unary_stream("Numbers")(b"3")) == [b"1", b"1", b"1"]
        wait = Stub(session).unary_unary("Wait")
        futures = [wait.future(b"%d" % number) for number in range(4)]
        recorder.running.acquire()
        recorder.go_on.set()
        assert [each.result() for each in futures] == [b"0", b"1", b"2", b"3"]
    assert recorder.most_running == 1
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


@KINDS
@pytest.mark.parametrize("what", ["passed", "wrapped"])
def test_one_object_that_was_added_as_it_is_behind_interceptors(
    relay_hub: HubThread, kind: str, what: str
) -> None:
    recorder = Recorder()
    cls = relayrpc.service(instances="single", concurrency="single")(
        type("One", (Servicer,), {})
    )
    with (
        hosting(relay_hub, kind, adding(cls(recorder)), **intercepting(kind, what)),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        wait = Stub(channel).unary_unary("Wait")
        futures = [wait.future(b"") for _ in range(4)]
        recorder.go_on.set()
        assert [each.result() for each in futures] == [b""] * 4
    assert recorder.most_running == 1
    with pytest.raises(UsageError, match=r"Number is served by relayrpc's servers alone"):
        make_servicer(recorder, "single").Number(b"", None)


@KINDS
def test_calls_that_an_interceptor_refuses_have_no_object(
    relay_hub: HubThread, kind: str
) -> None:
    recorder = Recorder()
    servicer = make_servicer(recorder, "single", "single")
    with (
        hosting(relay_hub, kind, adding(servicer), **intercepting(kind, "refused")),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        number, wait = Stub(channel).unary_unary("Number"), Stub(channel).unary_unary("Wait")
        token = (("token", "good"),)
        for made in (0, 1):
            with pytest.raises(relayrpc.RpcError, match="no token"):
                number(b"")
            assert recorder.made == made
            future = wait.future(b"", metadata=token)
            recorder.running.acquire()
            # Nor do they wait for a turn.
            with pytest.raises(relayrpc.RpcError, match="no token"):
                number(b"")
            recorder.go_on.set()
            future.result()


def test_threads_are_not_kept_by_calls_that_wait_for_their_turn(relay_hub: HubThread) -> None:
    """Else a pool of two would be full of them, and the callback's nested call find no thread."""
    recorder = Recorder()
    servicer = make_servicer(recorder, "single", "single")

    def register(server: Any) -> None:
        adding(servicer)(server)
        handlers = make_handlers({"uu:Free": lambda request, context: request})
        server.add_registered_method_handlers("test.Free", handlers)

    with (
        ThreadPoolExecutor(2) as pool,
        hosting(
            relay_hub, "blocking", register, thread_pool=pool, interceptors=[Passes("passed")]
        ),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        wait = Stub(channel).unary_unary("Wait")
        futures = [wait.future(b"%d" % number) for number in range(8)]
        recorder.running.acquire()
        free = Stub(channel, "test.Free").unary_unary("Free")
        assert [free(b"%d" % number) for number in range(8)] == [b"%d" % n for n in range(8)]
        recorder.go_on.set()
        assert [each.result() for each in futures] == [b"%d" % number for number in range(8)]


@KINDS
def test_what_an_interceptor_gives_to_a_call_is_that_calls_alone(
    relay_hub: HubThread, kind: str
) -> None:
    """One that reads by the metadata of a call must not be given another's."""

    class Check(relayrpc.MessageInspector):
        def request(self, call: relayrpc.InspectedCall, data: bytes) -> bytes:
            assert dict(call.metadata)["signature"] == data.decode()
            return data

    recorder = Recorder()
    servicer = make_servicer(recorder, "single")
    with (
        hosting(relay_hub, kind, adding(servicer), interceptors=[Check()]),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        number = Stub(channel).unary_unary("Number")
        for data in (b"1", b"2"):
            assert number(data, metadata=(("signature", data.decode()),)) == b"1"


# --- making and closing ---


@pytest.mark.parametrize("intercepted", ["not", "passed", "wrapped"])
def test_objects_of_a_blocking_server_are_made_and_closed_where_that_may_block(
    relay_hub: HubThread, intercepted: str
) -> None:
    """The constructor calls another service on the same server, and so does what leaves it."""
    recorder = Recorder()

    class Entered(Servicer):
        def __init__(self, channel: relayrpc.Channel) -> None:
            self.free = Stub(channel, "test.Free").unary_unary("Free")
            assert self.free(b"") == b"free"
            super().__init__(recorder)

        def __enter__(self) -> None:
            assert self.free(b"") == b"free"

        def __exit__(self, *error: object) -> None:
            assert self.free(b"") == b"free"
            recorder.closed.release()

        def close(self) -> None:
            raise AssertionError

    cls = relayrpc.service(instances="per_call")(Entered)
    with relayrpc.channel(relay_hub.url()) as channel:
        servicer = relayrpc.servicer(cls, factory=lambda: cls(channel))

        def register(server: Any) -> None:
            adding(servicer)(server)
            handlers = make_handlers({"uu:Free": lambda request, context: b"free"})
            server.add_registered_method_handlers("test.Free", handlers)

        with hosting(relay_hub, "blocking", register, **intercepting("blocking", intercepted)):
            number = Stub(channel).unary_unary("Number")
            assert [number(b"") for _ in range(3)] == [b"1", b"2", b"3"]
            for _ in range(3):
                recorder.closed.acquire()


@pytest.mark.parametrize("intercepted", ["not", "passed", "wrapped"])
def test_a_factory_that_fails_is_told_as_a_handler_that_does(
    relay_hub: HubThread, intercepted: str
) -> None:
    recorder = Recorder()
    attempts = iter(range(10))
    asked: list[Any] = []

    def make() -> Any:
        if next(attempts) == 0:
            raise ValueError("making failed")
        return Servicer(recorder)

    def answer(error: Exception, context: Any) -> grpc.Status | None:
        asked.append((str(error), context.peer(), threading.current_thread().name))
        return None

    cls = relayrpc.service(instances="single")(type("Made", (Servicer,), {}))
    servicer = relayrpc.servicer(cls, factory=make)
    options = intercepting("blocking", intercepted) | {"error_handlers": [answer]}
    with (
        hosting(
            relay_hub,
            "blocking",
            adding(servicer),
            include_exception_detail=True,
            **options,
        ),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        number = Stub(channel).unary_unary("Number")
        with pytest.raises(relayrpc.RpcError) as caught:
            number(b"")
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == "Exception calling application: making failed"
        assert number(b"") == b"1"
    [(text, _, thread)] = asked
    assert text == "making failed"
    assert thread != "relayrpc server"
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}


@pytest.mark.parametrize("mode", ["per_call", "single"])
@pytest.mark.parametrize("factory", ["plain", "async"])
def test_an_object_that_is_made_too_late_for_its_call_is_closed(
    relay_hub: HubThread, mode: str, factory: str
) -> None:
    recorder = Recorder()
    making, go_on = threading.Event(), threading.Event()

    def make() -> Any:
        making.set()
        go_on.wait()
        return Servicer(recorder)

    async def make_later() -> Any:
        return await asyncio.to_thread(make)

    servicer = make_servicer(
        recorder, mode, factory=make if factory == "plain" else make_later
    )
    with (
        hosting(relay_hub, "blocking", adding(servicer)),
        relayrpc.channel(relay_hub.url()) as channel,
    ):
        future = Stub(channel).unary_unary("Number").future(b"")
        making.wait()
        future.cancel()
        go_on.set()
        if mode == "single":
            assert Stub(channel).unary_unary("Number")(b"") == b"1"
        else:
            recorder.closed.acquire()
            recorder.closed.release()
    recorder.closed.acquire()
    assert recorder.made == 1
    assert servicer.throttle.counts == {"calls": 0, "sessions": 0, "instances": 0}
