"""
The second ring's callers: programs that use generated stubs, cancel, give up and read slowly.

Each call runs in a task of its own, as in a real program, and what it is told goes into its record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from relayrpc.endpoint.rpc_error import RpcError
from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc
from tests.simulation.ring2_calls import Record, text_of


__all__ = ["make_call"]


async def make_call(channel: grpc.aio.Channel, record: Record) -> None:
    """
    Make one call and note how it ends.

    Raises:
        AssertionError: What arrived is not what was sent.
        grpc.aio.UsageError: The channel is closed; nothing was started.
    """
    loop = asyncio.get_running_loop()
    record.started_s = loop.time()
    key = record.plan.key
    options = {
        "timeout": record.plan.deadline_s,
        "metadata": (
            ("sim-key", key),
            ("sim-key-bin", b"\x00\xff"),
            ("sim-key-bin", key.encode()),
            ("relay-address", record.plan.address),
            *((("relay-dedupe-key", record.plan.dedupe_key),) if record.plan.dedupe_key else ()),
        ),
        "wait_for_ready": record.plan.waits_for_ready,
    }
    stub = greeter_pb2_grpc.GreeterStub(channel)
    begin = {
        "unary_unary": _say_hello,
        "unary_stream": _list_greetings,
        "stream_unary": _collect_names,
        "stream_stream": _chat,
    }[record.plan.shape]
    try:
        await begin(stub, record, options)
    except RpcError as exc:
        record.fail(exc)
    except asyncio.CancelledError:
        record.status = grpc.StatusCode.CANCELLED
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling():
            # Ours: the plan cancels the task, and nobody else does before the world's end.
            task.uncancel()
    else:
        record.status = grpc.StatusCode.OK
    finally:
        if record.canceller is not None:
            record.canceller.cancel()
    record.ended_s = loop.time()


def _watch(call: Any, record: Record) -> None:
    """Count ends, and have the call cancelled when the plan says so."""
    plan = record.plan
    if plan.is_dropped:
        # A callback would keep it alive.
        return

    def ended(_: Any) -> None:
        record.callbacks += 1
        record.over_s = loop.time()

    loop = asyncio.get_running_loop()
    call.add_done_callback(ended)
    if plan.cancel_after_s is None:
        return
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        if record.ended_s is not None or record.is_cancelled:
            return
        if plan.cancels_task:
            record.is_cancelled = True
            task.cancel()
        elif call.cancel():
            record.is_cancelled = True

    if plan.cancel_after_s or plan.cancels_task:
        record.canceller = loop.call_later(plan.cancel_after_s, cancel)
    else:
        cancel()


async def _pause(record: Record) -> None:
    if record.plan.caller_pause_s:
        await asyncio.sleep(record.plan.caller_pause_s)


def _check_response(record: Record, text: str) -> None:
    expected = text_of(record.plan, "response", record.responses_read)
    assert text == expected, f"response {record.responses_read} is {text[:40]!r}: {record}"
    record.responses_read += 1


def _next_request(record: Record) -> str:
    text = text_of(record.plan, "request", record.requests_written)
    record.requests_written += 1
    return text


# --- the four shapes ---


async def _say_hello(stub: Any, record: Record, options: dict[str, Any]) -> None:
    record.is_half_closed = True
    call = stub.SayHello(pb.HelloRequest(name=_next_request(record)), **options)
    _watch(call, record)
    _check_response(record, (await call).message)
    await _check_ok(call, record)


async def _list_greetings(stub: Any, record: Record, options: dict[str, Any]) -> None:
    record.is_half_closed = True
    request = pb.ListGreetingsRequest(name=_next_request(record))
    call = stub.ListGreetings(request, **options)
    _watch(call, record)
    if record.plan.is_dropped:
        await _drop(record)
    with _cancelled_on_leaving(call):
        await _read(call, record, lambda reply: str(reply.message))
        await _check_ok(call, record)


async def _collect_names(stub: Any, record: Record, options: dict[str, Any]) -> None:
    has_iterator = record.plan.uses_iterator and not record.plan.is_dropped
    call = stub.CollectNames(_requests(record, _hello) if has_iterator else None, **options)
    _watch(call, record)
    if record.plan.is_dropped:
        await _drop(record)
    with _cancelled_on_leaving(call):
        if not has_iterator:
            await _write(call, record, _hello)
        _check_response(record, (await call).message)
        await _check_ok(call, record)


async def _chat(stub: Any, record: Record, options: dict[str, Any]) -> None:
    has_iterator = record.plan.uses_iterator and not record.plan.is_dropped
    call = stub.Chat(_requests(record, _line) if has_iterator else None, **options)
    _watch(call, record)
    if record.plan.is_dropped:
        await _drop(record)
    with _cancelled_on_leaving(call):
        writing = None if has_iterator else asyncio.ensure_future(_write(call, record, _line))
        try:
            await _read(call, record, lambda line: str(line.text))
        finally:
            if writing is not None:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, RpcError):
                    await writing
        await _check_ok(call, record)


# --- their parts ---


@contextlib.contextmanager
def _cancelled_on_leaving(call: Any) -> Iterator[None]:
    """As a program must whose task may be cancelled: its done callback keeps the call alive."""
    try:
        yield
    finally:
        if not call.done():
            call.cancel()


async def _read(call: Any, record: Record, text: Callable[[Any], str]) -> None:
    """Read every response, slowly if the plan says so."""
    if record.plan.uses_iterator:
        async for message in call:
            _check_response(record, text(message))
            await _pause(record)
    else:
        while (message := await call.read()) is not grpc.aio.EOF:
            _check_response(record, text(message))
            await _pause(record)


def _hello(text: str) -> pb.HelloRequest:
    return pb.HelloRequest(name=text)


def _line(text: str) -> pb.ChatLine:
    return pb.ChatLine(text=text)


async def _write(call: Any, record: Record, make: Callable[[str], Any]) -> None:
    """Write every request; a call that ends meanwhile takes no more, and says why when read."""
    try:
        for _ in record.plan.requests:
            await _pause(record)
            await call.write(make(_next_request(record)))
        record.is_half_closed = True
        await call.done_writing()
    except asyncio.InvalidStateError:
        if record.is_cancelled and not call.done():
            # grpc's intercepted call made this of the cancellation of our task.
            raise asyncio.CancelledError from None
        assert call.done(), f"writing was refused although the call runs: {record}"


async def _requests(record: Record, make: Callable[[str], Any]) -> AsyncIterator[Any]:
    for _ in record.plan.requests:
        await _pause(record)
        yield make(_next_request(record))
    record.is_half_closed = True


async def _drop(record: Record) -> None:
    """Leave without the call: whoever held it forgets it, and that cancels it."""
    await asyncio.sleep(record.plan.cancel_after_s or 0.0)
    record.is_cancelled = True
    raise asyncio.CancelledError


async def _check_ok(call: Any, record: Record) -> None:
    """The call object agrees with what was raised or not."""
    assert call.done()
    assert await call.code() is grpc.StatusCode.OK
    if record.plan.has_initial_metadata:
        metadata = dict(await call.initial_metadata())
        assert metadata.get("sim-key") == record.plan.key, f"initial metadata lost: {record}"
