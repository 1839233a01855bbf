"""
Running handlers: one task per call, for the four shapes, `async def` or plain.

Owns: how a handler is called and what its exceptions become. Does not own: which handler
(handlers.py), the wire (context.py). Nothing a handler does leaves a call without an end.
Source: docs/reference/errors.md; the behaviour of grpc.aio's server.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import grpc.aio

from relayrpc.endpoint.context import RefusedError, RequestIterator
from relayrpc.endpoint.metadata import InvalidMetadataError, MetadataTooLargeError
from relayrpc.endpoint.sync_context import SyncContext, SyncRequestIterator
from relayrpc.link.call import (
    STATUS_CANCELLED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNIMPLEMENTED,
)
from relayrpc.link.messages import MessageTooLargeError


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.observe.tracing import Tracing


__all__ = ["METHOD_NOT_FOUND", "run_call", "run_traced_call"]

METHOD_NOT_FOUND: Final = "Method not found!"

_LOGGER: Final = logging.getLogger("relayrpc")
# Stands for the end of a plain generator.
_NO_MORE: Final = object()


async def run_call(context: Context) -> None:
    """Run the handler of one call; the body of its task."""
    context.is_started = True
    try:
        entry = context.entry
        if context.request is not None and entry.is_async and not entry.has_response_stream:
            # The hot path, written out: an async unary handler whose request is here.
            data = context.request
            request = data if entry.deserializer is None else entry.deserializer(data)
            context.reply(await entry.behavior(request, context))
        else:
            await _run(context)
    except asyncio.CancelledError:
        # Ours when the call is over; else the handler's own doing, and its caller is told.
        context.end(STATUS_CANCELLED, "the handler was cancelled")
        raise
    except Exception as exc:
        _failed(context, exc)
    except BaseException:
        context.fail("the host is being stopped")
        raise
    finally:
        context.leave()


async def run_traced_call(context: Context, tracing: Tracing, address: str) -> None:
    """As `run_call`, in a span: below the one the call's metadata names, above the handler's."""
    span = tracing.start_host_span(context.method, address, context.invocation_metadata())
    try:
        with tracing.attached(span):
            await run_call(context)
    finally:
        tracing.end_span(span, status=context.end_status)


async def _run(context: Context) -> None:
    server = context.server
    if server.interceptors:
        entry = await server.intercept(context)
        if entry is None:
            context.end(STATUS_UNIMPLEMENTED, METHOD_NOT_FOUND, not_executed=True)
            return
        context.entry = entry
    entry = context.entry
    request: Any
    if not entry.has_request_stream:
        data = await context.take_request()
        request = data if entry.deserializer is None else entry.deserializer(data)
    else:
        request = RequestIterator(context) if entry.is_async else SyncRequestIterator(context)
    if not entry.is_async:
        await _run_plain(context, request)
    elif entry.has_response_stream:
        await _run_stream(context, request)
    else:
        context.reply(await entry.behavior(request, context))


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


async def _run_plain(context: Context, request: Any) -> None:
    """Run a plain function or generator in a thread, one step of a generator at a time."""
    server = context.server
    # What is current in the task, as the span of the call, is so in the handler's threads.
    run = contextvars.copy_context().run
    in_thread = server.loop.run_in_executor
    sync_context = SyncContext(context)
    result = await in_thread(server.executor, run, context.entry.behavior, request, sync_context)
    if not context.entry.has_response_stream:
        context.reply(result)
        return
    responses = iter(result)
    try:
        while True:
            response = await in_thread(server.executor, run, _next, responses)
            if response is _NO_MORE:
                break
            if context.send(response):
                await context.wait_writable()
    except asyncio.CancelledError:
        close = getattr(responses, "close", None)
        if close is not None:
            server.executor.submit(_close, close)
        raise
    context.complete()


def _next(responses: Iterator[Any]) -> Any:
    # StopIteration cannot leave a future.
    return next(responses, _NO_MORE)


def _close(close: Any) -> None:
    try:
        close()
    except ValueError:
        # In the middle of a step; its thread finishes that, and nobody asks for the next.
        pass
    except Exception:
        _LOGGER.exception("a handler's generator failed to close")


def _failed(context: Context, error: Exception) -> None:
    """End the call of a handler that raised, saying no more than it may."""
    if context.done():
        if not isinstance(error, grpc.aio.AbortError):
            text = "handler of /%s failed after the call's end"
            _LOGGER.warning(text, context.method, exc_info=error)
        return
    if isinstance(error, RefusedError):
        context.end(error.status, str(error), not_executed=True)
        return
    if isinstance(error, MetadataTooLargeError | MessageTooLargeError):
        context.end(STATUS_RESOURCE_EXHAUSTED, str(error))
        return
    if isinstance(error, InvalidMetadataError):
        context.end(STATUS_INTERNAL, str(error))
        return
    server = context.server
    if server.tracing is not None:
        server.tracing.record_exception(error)
    if server.include_exception_detail:
        _LOGGER.error("handler of /%s failed", context.method, exc_info=error)
        context.fail(f"Unexpected {type(error)}: {error}")
        return
    incident = server.make_incident_id()
    _LOGGER.error("handler of /%s failed, incident %s", context.method, incident, exc_info=error)
    context.fail(None if context.has_details else f"the handler failed, incident {incident}")
