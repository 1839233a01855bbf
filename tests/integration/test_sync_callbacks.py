"""
Goal: a blocking caller is called back with plain handlers, on threads that may call; and plain
handlers call back, on their own thread and on others, for as long as the caller is there.

Method: a hub on a thread of its own, blocking callers, and hosts of both kinds: blocking ones, and
async ones on the hub's loop.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc import SessionState
from relayrpc.errors import ConfigError, UsageError
from tests.support.blocking import HubThread, hosting
from tests.support.deadlines import DEADLINES_S
from tests.support.relay import Stub, make_handlers
from tests.support.until import until


pytestmark = pytest.mark.integration

EVENTS = "test.Events"


class Listener:
    """What a caller serves."""

    def __init__(self) -> None:
        self.channel: Any = None
        self.heard: list[bytes] = []
        self.threads: set[str] = set()
        self.hanging = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.heard.append(request)
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

    def never(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield self.hang(request, context)

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
        "us:Never": listener.never,
        "uu:Ask": listener.ask,
    }
    server.add_registered_method_handlers(EVENTS, make_handlers(methods))


def events(channel: Any) -> Stub:
    return Stub(channel, EVENTS)


def serving_methods(hub: HubThread, kind: str = "async", **handlers: Callable[..., Any]) -> Any:
    """Serve handlers as methods of `test.Service`."""
    methods = {f"uu:{name}": handler for name, handler in handlers.items()}

    def add_to(server: Any) -> None:
        server.add_registered_method_handlers("test.Service", make_handlers(methods))

    return hosting(hub, kind, add_to)


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
    with serving_methods(relay_hub, Call=call), calling(relay_hub, listener) as channel:
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

    with serving_methods(relay_hub, Ask=ask), calling(relay_hub, Listener()) as channel:
        assert Stub(channel).unary_unary("Ask")(b"4") == b"><><><><>."


def test_a_handler_is_told_that_its_callback_is_over(relay_hub: HubThread) -> None:
    async def call(request: bytes, context: Any) -> bytes:
        for timeout_s in DEADLINES_S:
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await context.callback(events).unary_unary("Hang")(b"", timeout=timeout_s)
            if listener.hanging.is_set():
                break
        return caught.value.code().name.encode()

    listener = Listener()
    with serving_methods(relay_hub, Call=call), calling(relay_hub, listener) as channel:
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
    with serving_methods(relay_hub, Call=call):
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


def test_error_handlers_answer_for_callbacks_on_their_threads(relay_hub: HubThread) -> None:
    threads: list[str] = []

    class Gone(grpc.Status):
        code = grpc.StatusCode.NOT_FOUND
        details = "gone"
        trailing_metadata = ()

    class Failing(Listener):
        def tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
            raise KeyError(request)

    def translate(error: Exception, context: Any) -> grpc.Status:
        assert isinstance(error, KeyError)
        threads.append(threading.current_thread().name[:16])
        return Gone()

    def call(request: bytes, context: Any) -> bytes:
        with pytest.raises(relayrpc.RpcError, match="gone"):
            context.callback(events).unary_unary("Tell")(b"")
        return request

    with (
        serving_methods(relay_hub, "blocking", Call=call),
        relayrpc.channel(
            relay_hub.url(), callbacks=[(add_listener, Failing())], error_handlers=[translate]
        ) as channel,
    ):
        assert Stub(channel).unary_unary("Call")(b"x") == b"x"
    assert threads == ["relayrpc-handler"]


# --- what plain handlers call ---


KINDS = pytest.mark.parametrize("kind", ["blocking", "async"])


@KINDS
@pytest.mark.parametrize("in_session", [False, True])
def test_a_plain_handler_calls_back_in_all_shapes(
    relay_hub: HubThread, kind: str, in_session: bool
) -> None:
    def call(request: bytes, context: Any) -> bytes:
        stub = context.callback(events)
        tell = stub.unary_unary("Tell")
        assert tell(b"1") == b"heard 1"
        assert tell.with_call(b"2")[0] == b"heard 2"
        futures = [tell.future(b"%d" % number) for number in range(3)]
        assert [each.result() for each in futures] == [b"heard 0", b"heard 1", b"heard 2"]
        assert list(stub.unary_stream("Count")(b"3")) == [b"0", b"1", b"2"]
        assert stub.stream_unary("Join")(iter([b"a", b"b"])) == b"ab"
        sent = [b"x" * 100_000, b"", b"y"]
        assert list(stub.stream_stream("Echo")(iter(sent))) == sent
        with pytest.raises(relayrpc.RpcError, match="no such thing") as caught:
            stub.unary_unary("Fail")(b"")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(TimeoutError):
            stub.unary_unary("Hang")(b"", timeout=0.05)
        return b"done"

    listener = Listener()
    with serving_methods(relay_hub, kind, Call=call), calling(relay_hub, listener) as channel:
        if in_session:
            with channel.session() as session:
                assert Stub(session).unary_unary("Call")(b"") == b"done"
        else:
            assert Stub(channel).unary_unary("Call")(b"") == b"done"
        listener.go_on.set()


@KINDS
def test_a_plain_handler_may_be_called_by_the_callback_that_it_makes(
    relay_hub: HubThread, kind: str
) -> None:
    def ask(request: bytes, context: Any) -> bytes:
        return b">" + context.callback(events).unary_unary("Ask")(request)

    with serving_methods(relay_hub, kind, Ask=ask), calling(relay_hub, Listener()) as channel:
        assert Stub(channel).unary_unary("Ask")(b"4") == b"><><><><>."


@KINDS
@pytest.mark.parametrize("in_session", [False, True])
def test_a_stub_is_of_use_to_any_thread_until_its_caller_is_gone(
    relay_hub: HubThread, kind: str, in_session: bool
) -> None:
    kept: list[tuple[relayrpc.Caller, Stub]] = []
    gone, late = threading.Event(), threading.Event()

    def call(request: bytes, context: Any) -> bytes:
        kept.append((context.caller(), context.callback(events)))
        return b""

    with serving_methods(relay_hub, kind, Call=call) as server:
        listener = Listener()
        with calling(relay_hub, listener) as channel, contextlib.ExitStack() as stack:
            caller_side = stack.enter_context(channel.session()) if in_session else channel
            Stub(caller_side).unary_unary("Call")(b"")
            ((caller, stub),) = kept
            caller.add_done_callback(gone.set)
            with ThreadPoolExecutor(8) as pool:
                replies = pool.map(stub.unary_unary("Tell"), [b"%d" % n for n in range(40)])
                assert list(replies) == [b"heard %d" % number for number in range(40)]
            assert not caller.done()
            assert not caller.wait_gone(timeout=0.01)
        assert caller.wait_gone()
        gone.wait()
        caller.add_done_callback(late.set)
        late.wait()
        with pytest.raises(relayrpc.RpcError) as caught:
            stub.unary_unary("Tell")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not caught.value.may_have_executed
        for wait in (lambda: stub.unary_unary("Tell")(b""), caller.wait_gone):
            with pytest.raises(UsageError, match="wait for the thread it runs on"):
                server.portal.handover.call(wait)


@KINDS
def test_a_callback_may_close_its_session(relay_hub: HubThread, kind: str) -> None:
    closed = threading.Event()

    def call(request: bytes, context: Any) -> bytes:
        reply: bytes = context.callback(events).unary_unary("Bye")(b"")
        return reply

    def bye(request: bytes, context: Any) -> bytes:
        session.close()
        return b"bye"

    def add(_: None, server: grpc.Server) -> None:
        server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Bye": bye}))

    with (
        serving_methods(relay_hub, kind, Call=call),
        relayrpc.channel(relay_hub.url(), callbacks=[(add, None)]) as channel,
    ):
        session = channel.session()
        session.add_state_callback(
            lambda state: closed.set() if state is SessionState.CLOSED else None
        )
        assert Stub(session).unary_unary("Call")(b"") == b"bye"
        closed.wait()


def test_nothing_is_left_of_what_an_async_server_called_back(relay_hub: HubThread) -> None:
    kept: list[relayrpc.Caller] = []
    threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def call(request: bytes, context: Any) -> bytes:
        kept.append(context.caller())
        return b""

    def tell() -> None:
        threads.put(threading.current_thread())

    with serving_methods(relay_hub, "async", Call=call) as server:
        with calling(relay_hub, Listener()) as channel:
            Stub(channel).unary_unary("Call")(b"")
            (caller,) = kept
            caller.add_done_callback(tell)
        thread = threads.get()
        assert thread.is_alive()
    # The server is still referred to: its end ended the thread, and not the garbage collector.
    thread.join()
    server.portal.call_back(tell)
    late = threads.get()
    assert late is not thread
    late.join()


@pytest.mark.parametrize("in_session", [False, True])
def test_a_caller_is_gone_when_the_server_is_over(relay_hub: HubThread, in_session: bool) -> None:
    kept: list[Any] = []
    gone = threading.Event()

    def call(request: bytes, context: Any) -> bytes:
        kept.append((context.caller(), context.callback(events)))
        return request

    server = relayrpc.server(relay_hub.url())
    server.add_registered_method_handlers("test.Service", make_handlers({"uu:Call": call}))
    server.start()
    with calling(relay_hub, Listener()) as channel:
        stub = Stub(channel.session() if in_session else channel)
        stub.unary_unary("Call")(b"")
        server.stop(0).wait()
        (caller, back), = kept
        caller.add_done_callback(gone.set)
        gone.wait()
        assert caller.wait_gone(0)
        assert caller.done()
        with pytest.raises(relayrpc.RpcError) as caught:
            back.unary_unary("Tell")(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not caught.value.may_have_executed
        caller.close()


@KINDS
def test_a_line_is_given_up_with_the_last_stub(relay_hub: HubThread, kind: str) -> None:
    def call(request: bytes, context: Any) -> bytes:
        reply: bytes = context.callback(events).unary_unary("Tell")(request)
        return reply

    with serving_methods(relay_hub, kind, Call=call), calling(relay_hub, Listener()) as channel:
        for _ in range(50):
            assert Stub(channel).unary_unary("Call")(b"x") == b"heard x"
        handover = channel.portal.handover
        while handover.call(lambda: channel.core.live.link.calls_open_count):
            pass


@KINDS
def test_a_caller_that_was_closed_is_called_back_no_more(
    relay_hub: HubThread, kind: str
) -> None:
    def call(request: bytes, context: Any) -> bytes:
        caller = context.caller()
        stub = caller.stub(events)
        future = stub.unary_unary("Hang").future(b"")
        caller.close()
        assert future.cancelled()
        with pytest.raises(ValueError, match="closed channel"):
            stub.unary_unary("Tell")(b"")
        with pytest.raises(UsageError, match="is not entered"), caller:
            pass
        with pytest.raises(UsageError, match="is not subscribed to"):
            caller.subscribe(print)
        return b"closed"

    listener = Listener()
    with serving_methods(relay_hub, kind, Call=call), calling(relay_hub, listener) as channel:
        assert Stub(channel).unary_unary("Call")(b"") == b"closed"
        listener.go_on.set()


@KINDS
@pytest.mark.parametrize("shape", ["unary", "future", "stream"])
@pytest.mark.parametrize("end", ["cancel", "deadline", "stop"])
def test_the_end_of_its_call_ends_the_callback_that_a_handler_waits_on(
    relay_hub: HubThread, kind: str, shape: str, end: str
) -> None:
    """For its thread it would go on for ever: nothing else ends the wait."""
    told: dict[bytes, queue.SimpleQueue[Any]] = {}

    def wait(stub: Stub) -> None:
        if shape == "unary":
            stub.unary_unary("Hang")(b"")
        elif shape == "future":
            stub.unary_unary("Hang").future(b"").result()
        else:
            list(stub.unary_stream("Never")(b""))

    def call(request: bytes, context: Any) -> bytes:
        ends = told[request] = queue.SimpleQueue()
        stub = context.callback(events)
        try:
            wait(stub)
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            ends.put(error)
        if end != "stop":
            # What a handler does after the end of its call is its own affair.
            ends.put(stub.unary_unary("Tell")(b"cleanup"))
        ends.put(context.is_active())
        return b""

    listener = Listener()
    with (
        serving_methods(relay_hub, kind, Call=call) as server,
        calling(relay_hub, listener) as channel,
    ):

        def is_waiting(request: bytes) -> bool:
            return request in told and listener.hanging.is_set()

        for timeout_s in DEADLINES_S if end == "deadline" else (None,):
            # The line to the caller is the session's: it outlives the call.
            session = channel.session()
            request = str(timeout_s).encode()
            future = Stub(session).unary_unary("Call").future(request, timeout=timeout_s)
            relay_hub.run(
                until(lambda call=future, name=request: call.done() or is_waiting(name))
            )
            if is_waiting(request):
                break
        ends = told[request]
        if end == "cancel":
            future.cancel()
        elif end == "stop":
            stopping = server.stop(None)
            if kind == "async":
                relay_hub.run(stopping)
        error = ends.get()
        if shape != "future":
            assert error.code() is grpc.StatusCode.CANCELLED
            assert error.details() == "the call is over whose handler waits on this one"
        if end != "stop":
            assert ends.get() == b"heard cleanup"
        assert ends.get() is False
        listener.ended.wait()
        listener.go_on.set()


@KINDS
def test_a_session_is_one_object_for_all_its_handlers(relay_hub: HubThread, kind: str) -> None:
    seen: list[Any] = []
    over: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call(request: bytes, context: Any) -> bytes:
        session = context.session
        if session is None:
            return b"none"
        if not seen:
            session.add_done_callback(over.put)
        seen.append((session, context.caller()))
        session.data.setdefault("requests", []).append(request)
        if request == b"last":
            session.close()
            assert session.state is SessionState.CLOSING
        return b",".join(session.data["requests"])

    with serving_methods(relay_hub, kind, Call=call), calling(relay_hub, Listener()) as channel:
        assert Stub(channel).unary_unary("Call")(b"1") == b"none"
        with channel.session() as session:
            states: queue.SimpleQueue[SessionState] = queue.SimpleQueue()
            session.add_state_callback(states.put)
            put = Stub(session).unary_unary("Call")
            assert put(b"1") == b"1"
            assert put(b"last") == b"1,last"
            while states.get() is not SessionState.CLOSED:
                pass
        host_session = over.get()
        assert seen[0] == seen[1] == (host_session, host_session.caller())
        assert host_session.state is SessionState.CLOSED
        assert host_session.service == "test.Service"
        # It is over already.
        host_session.add_done_callback(over.put)
        assert over.get() is host_session


# --- many callers ---


class Events:
    """A stub of what the callers serve."""

    def __init__(self, channel: Any) -> None:
        self.Tell = channel.unary_unary(f"/{EVENTS}/Tell")
        self.Hang = channel.unary_unary(f"/{EVENTS}/Hang")
        self.Count = channel.unary_stream(f"/{EVENTS}/Count")


@KINDS
def test_a_set_is_published_to_from_any_thread(relay_hub: HubThread, kind: str) -> None:
    callers = relayrpc.CallbackSet(Events, queue_max=10)
    added: list[relayrpc.Caller] = []

    @relayrpc.service(instances="single", concurrency="single")
    class Servicer:
        """Holds its object while it publishes, which is no wait for a callback."""

        def Watch(self, request: bytes, context: Any) -> bytes:
            added.append(callers.add(context))
            callers.publish("Tell", request)
            return b""

    callers.publish("Tell", b"nobody")
    watch = relayrpc.servicer(Servicer).Watch
    with serving_methods(relay_hub, kind, Watch=watch), contextlib.ExitStack() as stack:
        listeners = [Listener() for _ in range(4)]
        channels = [stack.enter_context(calling(relay_hub, each)) for each in listeners]
        for channel in channels:
            Stub(channel).unary_unary("Watch")(b"came")
        assert len(callers) == 4
        callers.drain()
        assert [each.heard for each in listeners] == [[b"came"] * n for n in (4, 3, 2, 1)]
        with ThreadPoolExecutor(4) as pool:
            for number in range(10):
                pool.submit(callers.publish, "Tell", b"%d" % number)
        callers.drain()
        assert {len(each.heard) for each in listeners} == {14, 13, 12, 11}
        callers.publish("Hang", b"")
        for each in listeners:
            each.hanging.wait()
        for number in range(12):
            callers.publish("Tell", b"%d" % number)
        assert callers.dropped_count == 2 * 4
        for each in listeners:
            each.go_on.set()
        callers.drain()
        assert callers.failed_count == 0
        assert callers.delivered_count > 0
        callers.remove(added[0])
        assert len(callers) == 3
        with pytest.raises(AttributeError):
            callers.publish("Nonsense", b"")
        with pytest.raises(UsageError, match="Count has a stream of messages"):
            callers.publish("Count", b"")
        channels[1].close()
        assert added[1].wait_gone()
        while len(callers) > 2:
            pass
    while len(callers):
        pass
    callers.publish("Tell", b"nobody")
    callers.drain()


def test_a_set_goes_on_behind_a_callback_that_is_cancelled(relay_hub: HubThread) -> None:
    callers = relayrpc.CallbackSet(Events)
    added: list[relayrpc.Caller] = []

    def watch(request: bytes, context: Any) -> bytes:
        added.append(callers.add(context))
        return b""

    listener = Listener()
    with (
        serving_methods(relay_hub, "blocking", Watch=watch),
        calling(relay_hub, listener) as channel,
        channel.session() as session,
    ):
        Stub(session).unary_unary("Watch")(b"")
        callers.publish("Hang", b"")
        callers.publish("Tell", b"next")
        listener.hanging.wait()
        added[0].close()
        callers.drain()
        assert listener.heard == [b"next"]
        listener.go_on.set()


def test_a_set_is_declared_rightly() -> None:
    with pytest.raises(ConfigError, match="timeout_s is 0, and must be above 0"):
        relayrpc.CallbackSet(Events, timeout_s=0)


def test_a_set_has_the_callers_of_one_server(relay_hub: HubThread) -> None:
    callers = relayrpc.CallbackSet(Events)
    refused: list[str] = []

    def watch(request: bytes, context: Any) -> bytes:
        try:
            callers.add(context)
        except UsageError as error:
            refused.append(str(error))
        return b""

    with contextlib.ExitStack() as stack:
        for address in ("one", "two"):
            server = relayrpc.server(relay_hub.url(address))
            methods = make_handlers({"uu:Watch": watch})
            server.add_registered_method_handlers("test.Service", methods)
            server.start()
            stack.callback(server.stop, None)
            url, callbacks = relay_hub.url(address), [(add_listener, Listener())]
            channel = stack.enter_context(relayrpc.channel(url, callbacks=callbacks))
            Stub(channel).unary_unary("Watch")(b"")
        assert refused == ["a set has the callers of one server; make one for each"]


# --- two that call each other ---


def _call_back(context: Any) -> bytes:
    reply: bytes = context.callback(events).unary_unary("Tell")(b"you")
    return reply


def test_two_blocking_peers_call_each_other_over_a_link_each(relay_hub: HubThread) -> None:
    peers: dict[str, relayrpc.Server] = {}
    for name in ("ada", "bob"):

        def say(request: bytes, context: Any, name: str = name) -> bytes:
            return name.encode() + b" heard " + request

        server = relayrpc.server(relay_hub.url(f"chat/{name}"), instance=name)
        server.add_registered_method_handlers("test.Service", make_handlers({"uu:Say": say}))
        channel = server.channel("chat/ada")
        with pytest.raises(UsageError, match="start the server first"):
            Stub(channel).unary_unary("Say")(b"")
        channel.close()
        server.start()
        peers[name] = server
    for name, other in (("ada", "bob"), ("bob", "ada")):
        with peers[name].channel(f"chat/{other}") as channel, channel.session() as session:
            for stub in (Stub(channel), Stub(session)):
                reply = stub.unary_unary("Say")(b"!")
                assert reply == other.encode() + b" heard !"
        with pytest.raises(ValueError, match="closed channel"):
            Stub(channel).unary_unary("Say")(b"")
    listener = Listener()
    with (
        serving_methods(relay_hub, "blocking", Call=lambda request, context: _call_back(context)),
        peers["ada"].channel("contoso/test", callbacks=[(add_listener, listener)]) as channel,
        channel.session() as session,
    ):
        assert Stub(channel).unary_unary("Call")(b"") == b"heard you"
        assert Stub(session).unary_unary("Call")(b"") == b"heard you"
        assert listener.threads == {"relayrpc-handler"}
    channel = peers["ada"].channel("chat/bob")
    running = Stub(channel).unary_unary("Say")
    assert running(b"!") == b"bob heard !"
    peers["bob"].stop(None)
    with pytest.raises(relayrpc.RpcError, match="no host listens"):
        running(b"!")
    peers["ada"].stop(None)
    with pytest.raises(relayrpc.RpcError) as caught:
        running(b"!")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    channel.close()
