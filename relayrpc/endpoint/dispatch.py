"""
Running `async def` handlers: one task per call, for the four shapes.

Owns: how a handler is called. Does not own: which handler (handlers.py), the wire (context.py),
plain handlers (plain_call.py), what exceptions become (failure.py). Nothing a handler does leaves a
call without an end.
Source: docs/reference/errors.md; the behaviour of grpc.aio's server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from relayrpc.endpoint.context import RequestIterator, current_call
from relayrpc.endpoint.failure import HOST_STOPPED, fail_call
from relayrpc.endpoint.handlers import UNRESOLVED
from relayrpc.endpoint.turns import current_turn
from relayrpc.link.call import STATUS_CANCELLED, STATUS_UNIMPLEMENTED


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.order import Place
    from relayrpc.observe.tracing import Tracing


__all__ = ["METHOD_NOT_FOUND", "run_call", "run_traced_call"]

METHOD_NOT_FOUND: Final = "Method not found!"


async def run_call(context: Context) -> None:
    """Run the handler of one call; the body of its task."""
    context.is_started = True
    try:
        entry = context.entry
        place = context.place
        if (
            context.request is not None
            and entry.is_async
            and not entry.has_response_stream
            and entry.instance_method is None
            and (place is None or place.comes_first())
        ):
            # The hot path, written out: an async unary handler whose request is here.
            data = context.request
            request = data if entry.deserializer is None else entry.deserializer(data)
            if place is not None:
                place.give()
            context.is_called = True
            context.reply(await entry.behavior(request, context))
        else:
            await _run(context)
    except asyncio.CancelledError:
        # Ours when the call is over; else the handler's own doing, and its caller is told.
        context.end(STATUS_CANCELLED, "the handler was cancelled")
        raise
    except Exception as exc:
        text, answer = await context.server.find_answer(context, exc)
        fail_call(context, exc, text, answer)
    except BaseException:
        context.fail(HOST_STOPPED)
        raise
    finally:
        context.leave()


async def run_traced_call(context: Context, tracing: Tracing, address: str) -> None:
    """As `run_call`, in a span: below the one the call's metadata names, above the handler's."""
    span = tracing.start_host_span(context.method, address, context.invocation_metadata())
    try:
        with tracing.attached(span):
            await context.server.run_call(context)
    finally:
        tracing.end_span(span, status=context.end_status)


async def _run(context: Context) -> None:
    server = context.server
    if server.interceptors:
        current_call.set(context)
        entry = await server.intercept(context)
        if entry is None:
            context.end(STATUS_UNIMPLEMENTED, METHOD_NOT_FOUND, not_executed=True)
            return
        context.entry = entry
    if context.place is not None:
        await _come_first(context, context.place)
    method = context.entry.instance_method
    if method is None:
        await _run_handler(context)
        return
    loan = await method.instances.lend(context)
    try:
        context.entry = loan.entry(context.entry, method.name)
        # Of this task, and of the thread that a plain handler gets.
        current_turn.set(loan.turn)
        await _run_handler(context)
    finally:
        if context.plain is None:
            loan.give_back()
        else:
            # A thread cannot be cancelled, and has the object until it returns.
            context.plain.when_left(loan.give_back)


async def _come_first(context: Context, place: Place) -> None:
    """Wait until nothing but the handler's own needs keeps it from being called next."""
    entry = context.entry
    if entry is UNRESOLVED:
        # Its thread runs the interceptors, and looks behind them.
        return
    if not entry.has_request_stream:
        context.request = await context.take_request()
    if not place.comes_first():
        await place.wait()


async def _run_handler(context: Context) -> None:
    entry = context.entry
    if not entry.is_async:
        await _run_plain(context)
        return
    request: Any
    if entry.has_request_stream:
        request = RequestIterator(context)
    else:
        data = await context.take_request()
        request = data if entry.deserializer is None else entry.deserializer(data)
    place = context.place
    if place is not None and place.inner is None:
        place.give()
    context.is_called = True
    if entry.has_response_stream:
        await _run_stream(context, request)
    else:
        context.reply(await entry.behavior(request, context))


async def _run_plain(context: Context) -> None:
    """Wait here for what a thread need not wait for, then hand the call to one."""
    entry = context.entry
    if entry is not UNRESOLVED and not entry.has_request_stream:
        context.request = await context.take_request()
    left = context.server.loop.create_future()
    context.server.start_plain(context, left)
    await asyncio.shield(left)


async def _run_stream(context: Context, request: Any) -> None:
    """Run an async generator, or a coroutine that uses context.write()."""
    responses = context.entry.behavior(request, context)
    if not hasattr(responses, "__aiter__"):
        await responses
        context.complete()
        return
    try:
        async for response in responses:
            if context.send(response):
                await context.wait_writable()
    except BaseException:
        # Else its cleanup would wait for the garbage collector.
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()
        raise
    context.complete()
