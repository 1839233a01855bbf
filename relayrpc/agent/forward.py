"""
Calls from a hub, handed to an existing gRPC server as they are: messages as bytes, metadata in
order, deadline, cancellation, status.

Owns: one call of each shape. Does not own: which methods there are (contract.py), the connection
(backend.py), what a call is on the link (endpoint/).
Source: docs/howto/expose-an-existing-server.md; grpc.aio's client calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from relayrpc.link.call import STATUS_UNAVAILABLE
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context


__all__ = ["forwarding_handler"]

_RELAY_PREFIX: Final = "relay-"
# A server that answers with nothing but a status sends it in the frame of the initial metadata;
# when it is not there by then, what came was the beginning of an answer.
_TRAILERS_ONLY_S: Final = 0.05
# How gRPC begins the details of a call that it could not even send.
_NEVER_SENT: Final = "failed to connect to all addresses"


def forwarding_handler(
    channel: grpc.aio.Channel, method: str, shape: int
) -> grpc.RpcMethodHandler:
    """
    Make the handler that forwards a method.

    Args:
        channel: To the server; its calls take and give bytes.
        method: "/pkg.Service/Method".
        shape: The link's number of it. One that nobody knows is forwarded as a stream each way,
            which is the same on the wire; only the number of messages is not looked after then.
    """
    kind, forward = _FORWARDS.get(shape, _FORWARDS[pb.SHAPE_STREAM_STREAM])
    start: Callable[..., Any] = getattr(channel, kind)(method)

    async def serve(request: Any, context: Context) -> Any:
        return await forward(start, request, context)

    handler: grpc.RpcMethodHandler = getattr(grpc, f"{kind}_rpc_method_handler")(serve)
    return handler


async def _unary_unary(start: Callable[..., Any], request: bytes, context: Context) -> bytes:
    call = start(
        request, timeout=context.time_remaining(), metadata=context.invocation_metadata()
    )
    try:
        response: bytes = await call
    except grpc.aio.AioRpcError as error:
        _fail(error, context)
    if metadata := _without_relay_keys(await call.initial_metadata()):
        context.begin(metadata)
    if metadata := _without_relay_keys(await call.trailing_metadata()):
        context.set_trailing_metadata(metadata)
    return response


async def _unary_stream(start: Callable[..., Any], request: bytes, context: Context) -> None:
    call = start(
        request, timeout=context.time_remaining(), metadata=context.invocation_metadata()
    )
    try:
        await _answer_many(call, context)
    finally:
        call.cancel()


async def _stream_unary(start: Callable[..., Any], _requests: Any, context: Context) -> bytes:
    async def answer(call: Any) -> bytes:
        with _begun(await call.initial_metadata(), context):
            response: bytes = await call
        return response

    response: bytes = await _with_requests(start, context, answer)
    return response


async def _stream_stream(start: Callable[..., Any], _requests: Any, context: Context) -> None:
    async def answer(call: Any) -> None:
        await _answer_many(call, context)

    await _with_requests(start, context, answer)


_FORWARDS: Final[dict[int, tuple[str, Callable[..., Awaitable[Any]]]]] = {
    int(pb.SHAPE_UNARY_UNARY): ("unary_unary", _unary_unary),
    int(pb.SHAPE_UNARY_STREAM): ("unary_stream", _unary_stream),
    int(pb.SHAPE_STREAM_UNARY): ("stream_unary", _stream_unary),
    int(pb.SHAPE_STREAM_STREAM): ("stream_stream", _stream_stream),
}


async def _with_requests(
    start: Callable[..., Any], context: Context, answer: Callable[[Any], Awaitable[Any]]
) -> Any:
    """Start a call, forward the requests beside what `answer` does, and end both together."""
    call = start(timeout=context.time_remaining(), metadata=context.invocation_metadata())
    sender = asyncio.get_running_loop().create_task(_send_requests(call, context))
    try:
        response = await answer(call)
        if metadata := _without_relay_keys(await call.trailing_metadata()):
            context.set_trailing_metadata(metadata)
    except grpc.aio.AioRpcError as error:
        _fail(error, context)
    except asyncio.CancelledError:
        if sender.done() and not sender.cancelled():
            # What is wrong with the requests, which the sender cancelled the call for.
            sender.result()
        raise
    finally:
        call.cancel()
        sender.cancel()
        await asyncio.wait((sender,))
        if not sender.cancelled():
            sender.exception()
    return response


async def _send_requests(call: Any, context: Context) -> None:
    """
    Forward what the caller sends, one message at a time.

    What cannot be sent to a server that has ended the call is no failure: its status comes.
    grpc.aio's own write() would put INTERNAL in the place of that status.
    """
    try:
        await call.wait_for_connection()
        send = call._cython_call.send_serialized_message
        while (message := await context.read()) is not grpc.aio.EOF:
            await send(message)
        await call.done_writing()
    except (grpc.aio.InternalError, grpc.aio.AioRpcError):
        pass
    except BaseException:
        call.cancel()
        raise


async def _answer_many(call: Any, context: Context) -> None:
    """Forward initial metadata, responses and trailing metadata."""
    try:
        responses = aiter(call)
        with _begun(await call.initial_metadata(), context):
            message = await anext(responses, None)
        while message is not None:
            if context.send(message):
                # What the caller does not read stays with the server.
                await context.wait_writable()
            message = await anext(responses, None)
        if metadata := _without_relay_keys(await call.trailing_metadata()):
            context.set_trailing_metadata(metadata)
    except grpc.aio.AioRpcError as error:
        _fail(error, context)


@contextlib.contextmanager
def _begun(metadata: grpc.aio.Metadata, context: Context) -> Iterator[None]:
    """
    Forward initial metadata, within while the first message or the status is waited for.

    gRPC does not tell a beginning without metadata from a status that came alone, which callers'
    retry policies act on: such a beginning is forwarded when no status has come with it.
    """
    if pairs := _without_relay_keys(metadata):
        context.begin(pairs)
        yield
        return
    timer = context.server.loop.call_later(_TRAILERS_ONLY_S, _begin_unless_done, context)
    try:
        yield
    finally:
        timer.cancel()


def _begin_unless_done(context: Context) -> None:
    if not context.done():
        context.begin(())


def _fail(error: grpc.aio.AioRpcError, context: Context) -> NoReturn:
    """End the call as the server did, or as gRPC did for it."""
    code, details = error.code(), error.details() or ""
    initial = _without_relay_keys(error.initial_metadata())
    if initial and not context.is_begun:
        context.begin(initial)
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_SENT):
        context.end(STATUS_UNAVAILABLE, details, not_executed=True)
    context.abort_now(code, details, _without_relay_keys(error.trailing_metadata()))


def _without_relay_keys(metadata: Any) -> list[tuple[str, str | bytes]]:
    """Leave out what a server behind another hub says of its own relay."""
    return [(key, value) for key, value in metadata if not key.startswith(_RELAY_PREFIX)]
