"""
Goal: whatever a handler does, its caller sees through a relay what it sees direct.

Method: every row of grpcio's behaviour, as measured, on grpc.aio's own server and on a relay's that
tells of exceptions; the same assertions. Where grpcio hangs, only the relay is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from tests.support.aio_sides import ServeAio, serving_aio


pytestmark = pytest.mark.integration

METHOD = "/test.Service/M"
Code = grpc.StatusCode


@dataclass
class Outcome:
    """What a caller has of a call."""

    responses: list[bytes]
    code: grpc.StatusCode
    details: str
    trailing: tuple[tuple[str, Any], ...]


async def outcome_of(call: Any) -> Outcome:
    responses = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        if hasattr(call, "__aiter__"):
            async for response in call:
                responses.append(response)  # noqa: PERF401  # what came before an error counts
        else:
            responses.append(await call)
    trailing = [(key, value) for key, value in await call.trailing_metadata()]
    return Outcome(responses, await call.code(), await call.details(), tuple(trailing))


# --- what a handler raises, returns and sets ---


async def raises(request: Any, context: Any) -> bytes:
    raise ValueError("x")


async def raises_after_a_code(request: Any, context: Any) -> bytes:
    context.set_code(Code.NOT_FOUND)
    context.set_details("d")
    raise ValueError("x")


async def sets_a_code(request: Any, context: Any) -> bytes:
    context.set_code(Code.NOT_FOUND)
    context.set_details("d")
    return b"dropped"


async def sets_a_number(request: Any, context: Any) -> bytes:
    context.set_code(5)
    return b"dropped"


async def sets_nonsense(request: Any, context: Any) -> bytes:
    context.set_code("x")
    context.set_details("d")
    return b"dropped"


async def sets_ok(request: Any, context: Any) -> bytes:
    context.set_code(Code.OK)
    return b"kept"


async def aborts(request: Any, context: Any) -> bytes:
    context.set_trailing_metadata((("a", "1"),))
    await context.abort(Code.NOT_FOUND, "d", (("b", "2"),))
    return b""


async def aborts_with_a_number(request: Any, context: Any) -> bytes:
    context.set_trailing_metadata((("a", "1"),))
    await context.abort(5, "d")
    return b""


async def aborts_with_nonsense(request: Any, context: Any) -> bytes:
    await context.abort("nonsense", "d")
    return b""


async def aborts_with_what_was_set(request: Any, context: Any) -> bytes:
    context.set_details("d")
    await context.abort(Code.NOT_FOUND)
    return b""


async def aborts_without_details(request: Any, context: Any) -> bytes:
    await context.abort(Code.NOT_FOUND, None)
    return b""


async def swallows_an_abort(request: Any, context: Any) -> bytes:
    with contextlib.suppress(grpc.aio.AbortError):
        await context.abort(Code.NOT_FOUND, "d")
    return b"dropped"


async def returns_nothing(request: Any, context: Any) -> None:
    return None


def raises_plainly(request: Any, context: Any) -> bytes:
    raise ValueError("x")


def sets_a_code_plainly(request: Any, context: Any) -> bytes:
    context.set_code(Code.NOT_FOUND)
    context.set_details("d")
    return b"dropped"


def aborts_plainly(request: Any, context: Any) -> bytes:
    context.abort(Code.NOT_FOUND, "d", (("b", "2"),))
    return b""


UNEXPECTED = "Unexpected <class 'ValueError'>: x"
# What each handler does -> what its caller has: responses, status, details, trailing metadata.
UNARY: dict[Callable[..., Any], Outcome] = {
    raises: Outcome([], Code.UNKNOWN, UNEXPECTED, ()),
    raises_after_a_code: Outcome([], Code.NOT_FOUND, UNEXPECTED, ()),
    sets_a_code: Outcome([], Code.NOT_FOUND, "d", ()),
    sets_a_number: Outcome([], Code.NOT_FOUND, "", ()),
    sets_nonsense: Outcome([], Code.UNKNOWN, "d", ()),
    sets_ok: Outcome([b"kept"], Code.OK, "", ()),
    aborts: Outcome([], Code.NOT_FOUND, "d", (("b", "2"),)),
    aborts_with_a_number: Outcome([], Code.NOT_FOUND, "d", (("a", "1"),)),
    aborts_with_nonsense: Outcome([], Code.UNKNOWN, "d", ()),
    aborts_with_what_was_set: Outcome([], Code.NOT_FOUND, "d", ()),
    aborts_without_details: Outcome([], Code.NOT_FOUND, "", ()),
    swallows_an_abort: Outcome([], Code.NOT_FOUND, "d", ()),
    returns_nothing: Outcome([b""], Code.OK, "", ()),
    raises_plainly: Outcome([], Code.UNKNOWN, UNEXPECTED, ()),
    sets_a_code_plainly: Outcome([], Code.NOT_FOUND, "d", ()),
    aborts_plainly: Outcome([], Code.NOT_FOUND, "d", (("b", "2"),)),
}


@pytest.mark.parametrize("behavior", list(UNARY), ids=lambda behavior: behavior.__name__)
async def test_handler_that(serve_aio: ServeAio, behavior: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        options = {"migration_thread_pool": pool}
        async with serve_aio({"uu:M": behavior}, server_options=options) as channel:
            assert await outcome_of(channel.unary_unary(METHOD)(b"")) == UNARY[behavior]


@pytest.mark.parametrize("response", [5, [], object()])
async def test_response_of_a_wrong_type_is_an_error(serve_aio: ServeAio, response: Any) -> None:
    async def returns(request: Any, context: Any) -> Any:
        return response

    async def yields(request: Any, context: Any) -> AsyncIterator[Any]:
        yield b"one"
        yield response

    async with serve_aio({"uu:M": returns, "us:S": yields}) as channel:
        outcome = await outcome_of(channel.unary_unary(METHOD)(b""))
        assert outcome.code is Code.UNKNOWN
        assert outcome.details.startswith("Unexpected <class 'TypeError'>")
        outcome = await outcome_of(channel.unary_stream("/test.Service/S")(b""))
        assert (outcome.responses, outcome.code) == ([b"one"], Code.UNKNOWN)


@pytest.mark.parametrize("place", ["request_deserializer", "response_serializer"])
async def test_failing_serializers_of_the_handler(serve_aio: ServeAio, place: str) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("x")

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    def register(server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(echo, **{place: fail})
        server.add_registered_method_handlers("test.Service", {"M": handler})

    async with serve_aio(register=register) as channel:
        outcome = await outcome_of(channel.unary_unary(METHOD)(b""))
        assert (outcome.code, outcome.details) == (Code.UNKNOWN, UNEXPECTED)


# --- streams ---


async def yields_then_raises(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"one"
    raise ValueError("x")


async def yields_then_sets(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"one"
    context.set_code(Code.NOT_FOUND)
    context.set_details("d")
    context.set_trailing_metadata((("a", "1"),))


async def yields_then_aborts(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"one"
    await context.abort(Code.NOT_FOUND, "d")


async def writes(request: Any, context: Any) -> None:
    await context.write(b"one")
    await context.write(b"two")
    context.set_trailing_metadata((("a", "1"),))


async def yields_nothing(request: Any, context: Any) -> AsyncIterator[bytes]:
    return
    yield b""


def yields_plainly_then_raises(request: Any, context: Any) -> Iterator[bytes]:
    yield b"one"
    raise ValueError("x")


STREAMS: dict[Callable[..., Any], Outcome] = {
    yields_then_raises: Outcome([b"one"], Code.UNKNOWN, UNEXPECTED, ()),
    yields_then_sets: Outcome([b"one"], Code.NOT_FOUND, "d", (("a", "1"),)),
    yields_then_aborts: Outcome([b"one"], Code.NOT_FOUND, "d", ()),
    writes: Outcome([b"one", b"two"], Code.OK, "", (("a", "1"),)),
    yields_nothing: Outcome([], Code.OK, "", ()),
    yields_plainly_then_raises: Outcome([b"one"], Code.UNKNOWN, UNEXPECTED, ()),
}


@pytest.mark.parametrize("behavior", list(STREAMS), ids=lambda behavior: behavior.__name__)
async def test_stream_handler_that(serve_aio: ServeAio, behavior: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        options = {"migration_thread_pool": pool}
        behaviors = {"us:M": behavior, "ss:S": behavior}
        async with serve_aio(behaviors, server_options=options) as channel:
            expected = STREAMS[behavior]
            assert await outcome_of(channel.unary_stream(METHOD)(b"")) == expected
            if isinstance(channel, relayrpc.aio.Channel):
                # grpc.aio loses the status of a call that ends while a request is sent, now and
                # then, and says INTERNAL.
                call = channel.stream_stream("/test.Service/S")(iter([b"x"]))
                assert await outcome_of(call) == expected


async def test_handler_reads_to_the_end(serve_aio: ServeAio) -> None:
    seen: list[Any] = []

    async def read(requests: Any, context: Any) -> bytes:
        while (request := await context.read()) is not grpc.aio.EOF:
            seen.append(request)
        assert await context.read() is grpc.aio.EOF
        return b"read"

    async with serve_aio({"su:M": read}) as channel:
        assert await channel.stream_unary(METHOD)(iter([b"a", b"", b"c"])) == b"read"
    assert seen == [b"a", b"", b"c"]


# --- the context ---


async def test_context_before_anything_was_set(serve_aio: ServeAio) -> None:
    seen: dict[str, Any] = {}

    async def look(request: bytes, context: Any) -> bytes:
        for name in ("code", "details", "time_remaining", "trailing_metadata", "cancelled", "done"):
            seen[name] = getattr(context, name)()
        for name in ("peer_identities", "peer_identity_key"):
            seen[name] = getattr(context, name)()
        seen["peer"] = context.peer().rpartition(":")[0]
        return b""

    async with serve_aio({"uu:M": look}) as channel:
        await channel.unary_unary(METHOD)(b"")
    assert seen.pop("peer") == "ipv4:127.0.0.1"
    identified = {seen.pop("peer_identities") is None, seen.pop("peer_identity_key") is None}
    assert len(identified) == 1
    assert seen == {
        "code": None,
        "details": "",
        "time_remaining": None,
        "trailing_metadata": (),
        "cancelled": False,
        "done": False,
    }


async def test_context_after_it_was_set(serve_aio: ServeAio) -> None:
    seen: list[Any] = []

    async def look(request: bytes, context: Any) -> bytes:
        context.set_code(Code.OK)
        context.set_details("d")
        context.set_trailing_metadata((("a", "1"),))
        seen.extend((context.code(), context.details(), context.trailing_metadata()))
        seen.append(0 < context.time_remaining() <= 61)
        return b""

    async with serve_aio({"uu:M": look}) as channel:
        await channel.unary_unary(METHOD)(b"", timeout=60)
    assert seen[0] in (Code.OK, Code.OK.value[0])
    assert seen[1:] == ["d", (("a", "1"),), True]


async def test_context_after_an_abort(serve_aio: ServeAio) -> None:
    errors: list[Exception] = []

    async def go_on(request: bytes, context: Any) -> None:
        attempts = (
            lambda: context.abort(Code.NOT_FOUND, "d"),
            lambda: context.abort(Code.ABORTED, "other"),
            lambda: context.write(b"x"),
            lambda: context.send_initial_metadata(()),
        )
        for attempt in attempts:
            try:
                await attempt()
            except Exception as error:
                errors.append(error)

    async with serve_aio({"us:M": go_on}) as channel:
        outcome = await outcome_of(channel.unary_stream(METHOD)(b""))
    assert outcome == Outcome([], Code.NOT_FOUND, "d", ())
    kinds = [type(error) for error in errors]
    abort_error = grpc.aio.AbortError
    assert kinds == [abort_error, grpc.aio.UsageError, abort_error, abort_error]
    assert str(errors[1]) == "Abort already called!"


async def test_initial_metadata_is_sent_once(serve_aio: ServeAio) -> None:
    errors: list[Exception] = []

    async def twice(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("i", "1"),))
        try:
            await context.send_initial_metadata((("i", "2"),))
        except grpc.aio.UsageError as error:
            errors.append(error)
        return b""

    async with serve_aio({"uu:M": twice}) as channel:
        call = channel.unary_unary(METHOD)(b"")
        assert (await call.initial_metadata())["i"] == "1"
        assert await call == b""
    assert str(errors[0]) == "Send initial metadata failed: already sent"


async def test_metadata_against_the_rules_is_internal(serve_aio: ServeAio) -> None:
    async def bad(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("Bad", "x"),))
        return b""

    async with serve_aio({"uu:M": bad}) as channel:
        outcome = await outcome_of(channel.unary_unary(METHOD)(b""))
    assert outcome.code is Code.INTERNAL
    assert outcome.details.startswith("Invalid metadata")


async def test_handler_is_told_that_its_caller_left(serve_aio: ServeAio) -> None:
    started, cancelled, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: done.set())
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async with serve_aio({"uu:M": wait}) as channel:
        call = channel.unary_unary(METHOD)(b"")
        await started.wait()
        assert call.cancel()
        await cancelled.wait()
        await done.wait()


async def test_calls_over_the_bound_are_refused(serve_aio: ServeAio) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        started.set()
        await go_on.wait()
        return b"done"

    options = {"maximum_concurrent_rpcs": 1}
    async with serve_aio({"uu:M": wait}, server_options=options) as channel:
        method = channel.unary_unary(METHOD)
        first = method(b"")
        await started.wait()
        outcome = await outcome_of(method(b""))
        assert outcome.code is Code.RESOURCE_EXHAUSTED
        assert outcome.details == "Concurrent RPC limit exceeded!"
        go_on.set()
        assert await first == b"done"


async def test_unknown_method_is_unimplemented(serve_aio: ServeAio) -> None:
    async with serve_aio({"uu:M": returns_nothing}) as channel:
        outcome = await outcome_of(channel.unary_unary("/test.Service/N")(b""))
        assert (outcome.code, outcome.details) == (Code.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("count", [0, -1])
async def test_bound_on_calls_is_above_zero(serve_aio: ServeAio, count: int) -> None:
    with pytest.raises(ValueError, match="maximum_concurrent_rpcs should be a positive integer"):
        async with serve_aio(server_options={"maximum_concurrent_rpcs": count}):
            pytest.fail("it was made")


# --- where grpcio hangs, or says less ---


async def aborts_with_ok(request: bytes, context: Any) -> bytes:
    await context.abort(Code.OK, "d")
    return b""


async def cancels_itself(request: bytes, context: Any) -> bytes:
    raise asyncio.CancelledError


async def writes_in_a_unary_method(request: bytes, context: Any) -> bytes:
    await context.write(b"x")
    return b""


async def reads_in_a_unary_method(request: bytes, context: Any) -> bytes:
    await context.read()
    return b""


ANSWERED = {
    aborts_with_ok: (Code.UNKNOWN, "d"),
    cancels_itself: (Code.CANCELLED, "the handler was cancelled"),
    writes_in_a_unary_method: (
        Code.UNKNOWN,
        "Unexpected <class 'grpc._cython.cygrpc.UsageError'>: "
        "write() on a method that returns its one response",
    ),
    reads_in_a_unary_method: (
        Code.UNKNOWN,
        "Unexpected <class 'grpc._cython.cygrpc.UsageError'>: "
        "read() on a method that takes one request",
    ),
}


@pytest.mark.parametrize("behavior", list(ANSWERED), ids=lambda behavior: behavior.__name__)
async def test_relay_answers_for_a_handler_that(behavior: Any) -> None:
    async with serving_aio("relay", {"uu:M": behavior}) as channel:
        outcome = await outcome_of(channel.unary_unary(METHOD)(b""))
        assert (outcome.code, outcome.details) == ANSWERED[behavior]
