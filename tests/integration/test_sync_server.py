"""
Goal: a blocking server behaves as grpc's own: what handlers do and callers see, contexts,
interceptors, the life of the server.

Method: every test runs once on grpc's server and channel and once through a relay, and asserts the
same; the relay's server is told to include the detail of exceptions, as grpc's does.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from tests.support.blocking import Serve, SideName


pytestmark = pytest.mark.integration

NOT_FOUND, UNKNOWN, INTERNAL = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
)


def error_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value


def fail(_: Any) -> Any:
    raise ValueError("no")


# --- what a handler does ---


def raise_it(request: bytes, context: Any) -> bytes:
    raise ValueError("x")


def raise_after_status(request: bytes, context: Any) -> bytes:
    context.set_code(NOT_FOUND)
    context.set_details("d")
    raise ValueError("x")


def set_status(request: bytes, context: Any) -> bytes:
    context.set_code(NOT_FOUND)
    context.set_details("d")
    return b"dropped"


def set_number(request: bytes, context: Any) -> bytes:
    context.set_code(5)
    return b""


def abort(request: bytes, context: Any) -> bytes:
    context.abort(NOT_FOUND, "d")
    raise AssertionError


def abort_with_number(request: bytes, context: Any) -> bytes:
    context.abort(5, "d")
    raise AssertionError


def abort_with_ok(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.OK, "d")
    raise AssertionError


def swallow_abort(request: bytes, context: Any) -> bytes:
    try:
        context.abort(NOT_FOUND, "d")
    except Exception:
        return b"as if nothing had been"
    raise AssertionError


def cancel(request: bytes, context: Any) -> bytes:
    context.cancel()
    return b""


def return_none(request: bytes, context: Any) -> Any:
    return None


def set_status_and_return_none(request: bytes, context: Any) -> Any:
    context.set_code(NOT_FOUND)
    context.set_details("d")


def set_ok(request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.OK)
    return b""


DEEDS: dict[Callable[..., Any], tuple[grpc.StatusCode, str | None]] = {
    raise_it: (UNKNOWN, "Exception calling application: x"),
    raise_after_status: (NOT_FOUND, "d"),
    set_status: (NOT_FOUND, "d"),
    set_number: (UNKNOWN, ""),
    abort: (NOT_FOUND, "d"),
    abort_with_number: (UNKNOWN, "d"),
    abort_with_ok: (UNKNOWN, ""),
    swallow_abort: (NOT_FOUND, "d"),
    # grpc's text depends on how its core learns of it.
    cancel: (grpc.StatusCode.CANCELLED, None),
    return_none: (INTERNAL, "Failed to serialize response!"),
    set_status_and_return_none: (NOT_FOUND, "d"),
    set_ok: (grpc.StatusCode.OK, ""),
}


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_caller_is_told_what_the_handler_did(serve: Serve, deed: Callable[..., Any]) -> None:
    code, details = DEEDS[deed]
    with serve({"uu:M": deed}) as channel:
        future: Any = channel.unary_unary("/test.Service/M").future(b"")
        assert future.code() is code
        assert details is None or future.details() == details


def test_abort_keeps_the_trailing_metadata(serve: Serve) -> None:
    def end(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "1"), ("k-bin", b"\x00")))
        context.abort(NOT_FOUND, "d")
        raise AssertionError

    with serve({"uu:M": end}) as channel:
        error = error_of(channel.unary_unary("/test.Service/M"), b"")
        assert set(error.trailing_metadata()) == {("k", "1"), ("k-bin", b"\x00")}


class _Status(grpc.Status):
    code = NOT_FOUND
    details = "rich"
    trailing_metadata = (
        (
            "grpc-status-details-bin",
            status_pb2.Status(code=5, message="rich").SerializeToString(),
        ),
    )


def test_rich_status_arrives(serve: Serve) -> None:
    def end(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("replaced", "1"),))
        context.abort_with_status(_Status())
        raise AssertionError

    with serve({"uu:M": end}) as channel:
        error = error_of(channel.unary_unary("/test.Service/M"), b"")
        assert (error.code(), error.details()) == (NOT_FOUND, "rich")
        assert tuple(error.trailing_metadata()) == _Status.trailing_metadata


def _stream_then_raise(request: Any, context: Any) -> Iterator[bytes]:
    yield b"1"
    yield b"2"
    raise ValueError("x")


def _stream_then_set_status(request: Any, context: Any) -> Iterator[bytes]:
    yield b"1"
    yield b"2"
    context.set_code(NOT_FOUND)
    context.set_details("d")


def _stream_then_abort(request: Any, context: Any) -> Iterator[bytes]:
    yield b"1"
    yield b"2"
    context.abort(NOT_FOUND, "d")


@pytest.mark.parametrize(
    ("behavior", "code", "details"),
    [
        (_stream_then_raise, UNKNOWN, "Exception iterating responses: x"),
        (_stream_then_set_status, NOT_FOUND, "d"),
        (_stream_then_abort, NOT_FOUND, "d"),
    ],
    ids=["raise", "set_status", "abort"],
)
@pytest.mark.parametrize("shape", ["us", "ss"])
def test_end_of_a_stream_comes_after_its_messages(
    serve: Serve, shape: str, behavior: Any, code: grpc.StatusCode, details: str
) -> None:
    with serve({f"{shape}:M": behavior}) as channel:
        if shape == "us":
            call: Any = channel.unary_stream("/test.Service/M")(b"")
        else:
            call = channel.stream_stream("/test.Service/M")(iter([b""]))
        assert [next(call), next(call)] == [b"1", b"2"]
        error = error_of(next, call)
        assert (error.code(), error.details()) == (code, details)


def test_plain_function_may_return_an_iterator(serve: Serve) -> None:
    with serve({"us:M": lambda request, context: iter([b"1", b"2"])}) as channel:
        assert list(channel.unary_stream("/test.Service/M")(b"")) == [b"1", b"2"]


def _handlers(**handlers: grpc.RpcMethodHandler) -> Callable[[Any], None]:
    def register(server: Any) -> None:
        server.add_registered_method_handlers("test.Service", handlers)

    return register


def test_failing_serializers_of_the_server_are_internal_errors(serve: Serve) -> None:
    entered: list[str] = []

    def echo(request: bytes, context: Any) -> bytes:
        entered.append("unary")
        return request

    def count(request: bytes, context: Any) -> Iterator[bytes]:
        yield from (b"1", b"2")

    register = _handlers(
        In=grpc.unary_unary_rpc_method_handler(echo, fail, None),
        Out=grpc.unary_unary_rpc_method_handler(echo, None, fail),
        Many=grpc.unary_stream_rpc_method_handler(count, None, fail),
    )
    with serve(register=register) as channel:
        error = error_of(channel.unary_unary("/test.Service/In"), b"")
        assert (error.code(), error.details()) == (INTERNAL, "Exception deserializing request!")
        assert not entered
        error = error_of(channel.unary_unary("/test.Service/Out"), b"")
        assert (error.code(), error.details()) == (INTERNAL, "Failed to serialize response!")
        error = error_of(list, channel.unary_stream("/test.Service/Many")(b""))
        assert (error.code(), error.details()) == (INTERNAL, "Failed to serialize response!")


def test_no_request_for_a_method_that_takes_one_is_answered(serve: Serve) -> None:
    with serve({"uu:M": lambda request, context: request}) as channel:
        error = error_of(channel.stream_unary("/test.Service/M"), iter(()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


# --- contexts ---


def test_context_tells_about_the_call(serve: Serve) -> None:
    seen: dict[str, Any] = {}

    def look(request: bytes, context: Any) -> bytes:
        seen["unset"] = (context.code(), context.details(), context.trailing_metadata())
        seen["no deadline"] = context.time_remaining()
        seen["metadata"] = context.invocation_metadata()
        seen["peer"] = context.peer()
        seen["auth"] = context.auth_context()
        seen["active"] = context.is_active()
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        context.set_trailing_metadata((("k", "v"),))
        context.set_details("d")
        context.set_code(NOT_FOUND)
        seen["set"] = (context.code(), context.details(), context.trailing_metadata())
        assert isinstance(context, grpc.ServicerContext)
        return b""

    with serve({"uu:M": look}) as channel:
        error_of(channel.unary_unary("/test.Service/M"), b"", metadata=(("a", "1"), ("a", "2")))
    assert seen["unset"] == (None, None, None)
    assert seen["set"] == (NOT_FOUND, b"d", (("k", "v"),))
    assert seen["no deadline"] > 1e18
    sent = [entry for entry in seen["metadata"] if entry.key == "a"]
    assert sent == [("a", "1"), ("a", "2")]
    assert isinstance(seen["metadata"], tuple)
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    assert isinstance(seen["auth"]["transport_security_type"][0], bytes)
    assert seen["active"] is True


def test_handler_sees_the_time_left(serve: Serve) -> None:
    def look(request: bytes, context: Any) -> bytes:
        return b"%d" % context.time_remaining()

    with serve({"uu:M": look}) as channel:
        left = int(channel.unary_unary("/test.Service/M")(b"", timeout=100))
    assert 90 <= left <= 102


def test_initial_metadata_can_be_sent_once_and_first(serve: Serve) -> None:
    errors: list[str] = []

    def twice(request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("i", "1"),))
        try:
            context.send_initial_metadata(())
        except ValueError as error:
            errors.append(str(error))
        return b""

    def late(request: bytes, context: Any) -> Iterator[bytes]:
        yield b"1"
        try:
            context.send_initial_metadata(())
        except ValueError as error:
            errors.append(str(error))

    with serve({"uu:T": twice, "us:L": late}) as channel:
        _, call = channel.unary_unary("/test.Service/T").with_call(b"")
        assert call.initial_metadata() == (("i", "1"),)
        assert list(channel.unary_stream("/test.Service/L")(b"")) == [b"1"]
    assert errors == ["Initial metadata no longer allowed!"] * 2


def test_handler_learns_that_its_caller_is_gone(serve: Serve) -> None:
    entered, gone = threading.Event(), threading.Event()
    seen: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def wait(request: bytes, context: Any) -> bytes:
        seen.put(context.add_callback(gone.set))
        entered.set()
        gone.wait()
        seen.put(context.is_active())
        seen.put(context.add_callback(gone.set))
        with pytest.raises(grpc.RpcError):
            context.send_initial_metadata(())
        seen.put("told")
        return b""

    with serve({"uu:M": wait}) as channel:
        future = channel.unary_unary("/test.Service/M").future(b"")
        entered.wait()
        future.cancel()
        assert [seen.get() for _ in range(4)] == [True, False, False, "told"]


def test_reader_of_requests_learns_that_its_caller_is_gone(
    side: SideName, serve: Serve
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    seen: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def read(requests: Iterator[bytes], context: Any) -> bytes:
        next(requests)
        entered.set()
        try:
            next(requests)
        except (grpc.RpcError, StopIteration) as error:
            seen.put(error)
        return b""

    def requests() -> Iterator[bytes]:
        yield b"1"
        go_on.wait()

    with serve({"su:M": read}) as channel:
        future = channel.stream_unary("/test.Service/M").future(requests())
        entered.wait()
        future.cancel()
        error = seen.get()
        # grpc's own sometimes takes it for the end of the requests.
        assert isinstance(error, grpc.RpcError) or side == "direct"
        go_on.set()


def test_callbacks_of_a_call_run_after_its_end(serve: Serve) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def register_callbacks(request: bytes, context: Any) -> bytes:
        def raise_() -> None:
            raise RuntimeError("a callback's own")

        assert context.add_callback(raise_)
        assert context.add_callback(lambda: told.put(context.is_active()))
        assert told.empty()
        return b"x"

    with serve({"uu:M": register_callbacks}) as channel:
        assert channel.unary_unary("/test.Service/M")(b"") == b"x"
        assert told.get() is False


def test_handlers_have_their_own_contextvars(serve: Serve) -> None:
    number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)

    def count(request: bytes, context: Any) -> bytes:
        number.set(number.get() + 1)
        return b"%d" % number.get()

    with serve({"uu:M": count}) as channel:
        stub = channel.unary_unary("/test.Service/M")
        assert [stub(b"") for _ in range(20)] == [b"1"] * 20


def test_stream_is_served_by_one_thread(serve: Serve) -> None:
    def threads(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield b"%d" % threading.get_ident()

    with serve({"ss:M": threads}) as channel:
        call = channel.stream_stream("/test.Service/M")(iter([b""] * 20))
        assert len(set(call)) == 1


def test_handler_may_call(serve: Serve) -> None:
    stubs: dict[str, Any] = {}

    def ask(request: bytes, context: Any) -> bytes:
        response: bytes = stubs["echo"](request)
        return response

    with serve({"uu:Ask": ask, "uu:E": lambda request, context: request}) as channel:
        stubs["echo"] = channel.unary_unary("/test.Service/E")
        assert channel.unary_unary("/test.Service/Ask")(b"x") == b"x"


# --- registering, admission ---


class Generic(grpc.ServiceRpcHandler):
    """Serves by looking at the call."""

    def service_name(self) -> str:
        return "test.Generic"

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        if details.method != "/test.Generic/M":
            return None
        keys = [key for key, _ in details.invocation_metadata if key == "a"]
        return grpc.unary_unary_rpc_method_handler(lambda request, context: keys[0].encode())


def test_generic_handlers_serve(serve: Serve) -> None:
    def echo(request: bytes, context: Any) -> bytes:
        return request

    def register(server: Any) -> None:
        named = {"M": grpc.unary_unary_rpc_method_handler(echo)}
        handler = grpc.method_handlers_generic_handler("test.Named", named)
        server.add_generic_rpc_handlers((Generic(), handler))

    with serve(register=register) as channel:
        assert channel.unary_unary("/test.Generic/M")(b"", metadata=(("a", "1"),)) == b"a"
        assert channel.unary_unary("/test.Named/M")(b"x") == b"x"
        error = error_of(channel.unary_unary("/test.Generic/Other"), b"")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_beyond_the_servers_limit_are_refused(serve: Serve) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        entered.release()
        go_on.wait()
        return b""

    with serve({"uu:M": wait}, maximum_concurrent_rpcs=2) as channel:
        stub = channel.unary_unary("/test.Service/M")
        futures = [stub.future(b"") for _ in range(2)]
        for _ in futures:
            entered.acquire()
        error = error_of(stub, b"")
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "Concurrent RPC limit exceeded!"
        go_on.set()
        assert [future.result() for future in futures] == [b"", b""]


# --- interceptors ---


class Note(grpc.ServerInterceptor):
    """Notes what passes."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self._name = name
        self._notes = notes

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._notes.append((self._name, details.method))
        return continuation(details)


class Answer(grpc.ServerInterceptor):
    """Decides by the metadata: answers, hides or fails."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        what = dict(details.invocation_metadata).get("what")
        if what == "refuse":
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            )
        if what == "hide":
            return None
        if what == "fail":
            raise RuntimeError("an interceptor's own")
        return continuation(details)


def test_interceptors_run_in_order_for_every_shape(serve: Serve) -> None:
    notes: list[Any] = []

    def echo_all(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    behaviors = {
        "uu:UU": lambda request, context: request,
        "us:US": lambda request, context: iter([request]),
        "su:SU": lambda requests, context: b",".join(requests),
        "ss:SS": echo_all,
    }
    interceptors = (Note("outer", notes), Note("inner", notes))
    with serve(behaviors, interceptors=interceptors) as channel:
        assert channel.unary_unary("/test.Service/UU")(bytes(300_000)) == bytes(300_000)
        assert list(channel.unary_stream("/test.Service/US")(b"x")) == [b"x"]
        assert channel.stream_unary("/test.Service/SU")(iter([b"1", b"2"])) == b"1,2"
        call = channel.stream_stream("/test.Service/SS")(iter([b"1", b"2"]))
        assert list(call) == [b"1", b"2"]
    methods = [f"/test.Service/{shape}" for shape in ("UU", "US", "SU", "SS")]
    assert notes == [(name, method) for method in methods for name in ("outer", "inner")]


def test_interceptor_may_refuse_hide_or_fail(serve: Serve) -> None:
    echo = {"uu:M": lambda request, context: request}
    with serve(echo, interceptors=(Answer(),)) as channel:
        stub = channel.unary_unary("/test.Service/M")
        assert stub(b"x") == b"x"
        error = error_of(stub, b"", metadata=(("what", "refuse"),))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details() == "who are you?"
        error = error_of(stub, b"", metadata=(("what", "hide"),))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == "Method not found!"
        error = error_of(stub, b"", metadata=(("what", "fail"),))
        assert (error.code(), error.details()) == (UNKNOWN, "Error in service handler!")
        error = error_of(channel.unary_unary("/test.Service/Other"), b"")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


# --- life ---


def test_server_starts_once_and_stops_as_often_as_asked(serve: Serve) -> None:
    servers: list[Any] = []
    with serve({"uu:M": lambda request, context: request}, register=servers.append) as channel:
        [server] = servers
        assert channel.unary_unary("/test.Service/M")(b"x") == b"x"
        with pytest.raises(ValueError, match="Cannot start already-started server!"):
            server.start()
        assert server.wait_for_termination(timeout=0.01) is True
        waiting = ThreadPoolExecutor(1)
        termination = waiting.submit(server.wait_for_termination)
        assert server.stop(None).is_set()
        assert server.stop(None).is_set()
        assert server.stop(1).is_set()
        assert termination.result() is False
        assert server.wait_for_termination() is False
        error = error_of(channel.unary_unary("/test.Service/M"), b"")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        waiting.shutdown()


def test_stopping_with_grace_lets_a_call_finish_and_refuses_new_ones(serve: Serve) -> None:
    servers: list[Any] = []
    entered, go_on = threading.Event(), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        entered.set()
        go_on.wait()
        return request

    with serve({"uu:M": wait}, register=servers.append) as channel:
        stub = channel.unary_unary("/test.Service/M")
        future = stub.future(b"x")
        entered.wait()
        stopped = servers[0].stop(60)
        assert not stopped.is_set()
        assert not stopped.wait(0.1)
        assert error_of(stub, b"").code() is grpc.StatusCode.UNAVAILABLE
        go_on.set()
        assert future.result() == b"x"
        assert stopped.wait(60)


def test_stopping_without_grace_ends_what_runs(serve: Serve) -> None:
    servers: list[Any] = []
    entered, gone = threading.Event(), threading.Event()

    def wait(request: bytes, context: Any) -> bytes:
        context.add_callback(gone.set)
        entered.set()
        gone.wait()
        return b""

    with serve({"uu:M": wait}, register=servers.append) as channel:
        future: Any = channel.unary_unary("/test.Service/M").future(b"")
        entered.wait()
        long = servers[0].stop(60)
        assert servers[0].stop(0).wait(60)
        assert long.wait(60)
        assert gone.wait(60)
        assert future.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
