"""
Calls from a hub, handed to an existing gRPC server as they are: messages as bytes, metadata in
order, deadline, cancellation, status.

They are made on the calls that grpc.aio's own call objects are made of. Those objects answer a send
that failed because the server has ended the call with INTERNAL, in the place of the server's
status; and they take a third more of the processor's time.
Owns: one call of each shape. Does not own: which methods there are (contract.py), the connection
(backend.py), what a call is on the link (endpoint/).
Source: grpc/aio/_call.py; docs/howto/expose-an-existing-server.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from relayrpc.endpoint.failure import RefusedError
from relayrpc.link.call import STATUS_INTERNAL, STATUS_UNAVAILABLE
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context


__all__ = ["forwarding_handler"]

_Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

_State: Final = grpc.ChannelConnectivity
_RELAY_PREFIX: Final = "relay-"
_EOF: Final = grpc.aio.EOF
# A server that answers with nothing but a status sends it in the frame of the initial metadata;
# when it is not there by then, what came was the beginning of an answer.
_TRAILERS_ONLY_S: Final = 0.05
_NOT_REACHED: Final = "the exposed server cannot be reached"
_NOT_ONE: Final = "the server did not send exactly one response to a method that has one"


class _Status(Protocol):
    """How a call ended."""

    def code(self) -> int: ...
    def details(self) -> str: ...
    def trailing_metadata(self) -> _Metadata | None: ...


class _Call(Protocol):
    """A call as grpc.aio's core has it, and as grpc/aio/_call.py uses it."""

    async def unary_unary(self, request: bytes, metadata: tuple[Any, ...]) -> bytes: ...
    async def initiate_unary_stream(self, request: bytes, metadata: tuple[Any, ...]) -> None: ...
    async def initiate_stream_stream(
        self, metadata: tuple[Any, ...], metadata_sent_observer: Callable[[], None]
    ) -> None: ...
    async def send_serialized_message(self, message: bytes) -> None: ...
    async def send_receive_close(self) -> None: ...
    async def receive_serialized_message(self) -> Any: ...
    async def initial_metadata(self) -> _Metadata: ...
    async def status(self) -> _Status: ...
    def done(self) -> bool: ...
    def cancel(self, details: str) -> None: ...


_Start: TypeAlias = Callable[["Context"], _Call]


def forwarding_handler(
    channel: grpc.aio.Channel, method: str, shape: int
) -> grpc.RpcMethodHandler:
    """
    Make the handler that forwards a method.

    Args:
        channel: To the server.
        method: "/pkg.Service/Method".
        shape: The link's number of it. One that nobody knows is forwarded as a stream each way,
            which is the same on the wire; only the number of messages is not looked after then.
    """
    kind, forward = _FORWARDS.get(shape, _FORWARDS[pb.SHAPE_STREAM_STREAM])
    start = _starter(channel, method)

    # A plain function: whether a handler is async is looked for in it.
    async def serve(request: Any, context: Context) -> Any:
        # A call that gRPC has may have been sent, whatever it says of it: servers pass on the same
        # words of their own servers. So it gets none that it could not send.
        if channel.get_state() is not _State.READY and not await _reach(channel):
            context.end(STATUS_UNAVAILABLE, _NOT_REACHED, not_executed=True)
            return None
        return await forward(start, request, context)

    handler: grpc.RpcMethodHandler = getattr(grpc, f"{kind}_rpc_method_handler")(serve)
    return handler


async def _reach(channel: grpc.aio.Channel) -> bool:
    """Wait until it is known whether the server can be reached, as gRPC has calls wait."""
    while (state := channel.get_state(try_to_connect=True)) is not _State.READY:
        if state is _State.TRANSIENT_FAILURE or state is _State.SHUTDOWN:
            return False
        await channel.wait_for_state_change(state)
    return True


def _starter(
    channel: grpc.aio.Channel, method: str, wall_clock: Callable[[], float] = time.time
) -> _Start:
    """Make what begins a call of a method with the deadline of the caller's."""
    make = channel._channel.call
    name = method.encode()

    def start(context: Context) -> _Call:
        left_s = context.time_remaining()
        deadline_s = None if left_s is None else wall_clock() + left_s
        call: _Call = make(name, deadline_s, None, None, 0)
        return call

    return start


async def _unary_unary(start: _Start, request: bytes, context: Context) -> bytes:
    call = start(context)
    try:
        response = await call.unary_unary(request, context.invocation_metadata())
        status = await call.status()
    finally:
        _cancel_unless_done(call)
    if metadata := await call.initial_metadata():
        _begin(metadata, context)
    _finish(status, context)
    return response


async def _unary_stream(start: _Start, request: bytes, context: Context) -> None:
    call = start(context)
    try:
        await call.initiate_unary_stream(request, context.invocation_metadata())
        await _answer_many(call, context)
    finally:
        _cancel_unless_done(call)


async def _stream_unary(start: _Start, _requests: Any, context: Context) -> bytes:
    async with _sending(start, context) as call:
        response = await _first_response(call, context)
        rest = response if response is _EOF else await call.receive_serialized_message()
        status = await call.status() if rest is _EOF else None
    if status is None or (response is _EOF and not status.code()):
        context.end(STATUS_INTERNAL, _NOT_ONE)
    else:
        _finish(status, context)
    return b"" if response is _EOF else response


async def _stream_stream(start: _Start, _requests: Any, context: Context) -> None:
    async with _sending(start, context) as call:
        await _answer_many(call, context)


_FORWARDS: Final[dict[int, tuple[str, Callable[[_Start, Any, Context], Awaitable[Any]]]]] = {
    int(pb.SHAPE_UNARY_UNARY): ("unary_unary", _unary_unary),
    int(pb.SHAPE_UNARY_STREAM): ("unary_stream", _unary_stream),
    int(pb.SHAPE_STREAM_UNARY): ("stream_unary", _stream_unary),
    int(pb.SHAPE_STREAM_STREAM): ("stream_stream", _stream_stream),
}


# --- requests ---


@contextlib.asynccontextmanager
async def _sending(start: _Start, context: Context) -> AsyncIterator[_Call]:
    """Begin a call and forward its requests while inside; nothing of it is left after that."""
    call = start(context)
    loop = asyncio.get_running_loop()
    sender: asyncio.Task[None] | None = None

    def metadata_sent() -> None:
        nonlocal sender
        if sender is None and not call.done():
            sender = loop.create_task(_send_requests(call, context))

    try:
        await call.initiate_stream_stream(context.invocation_metadata(), metadata_sent)
        yield call
    finally:
        _cancel_unless_done(call)
        if sender is not None:
            sender.cancel()
            await asyncio.wait((sender,))


async def _send_requests(call: _Call, context: Context) -> None:
    """Forward what the caller sends, one message at a time."""
    try:
        while (message := await context.read()) is not _EOF:
            await call.send_serialized_message(message)
        await call.send_receive_close()
    except grpc.aio.InternalError:
        # The server has ended the call, and says how in its status.
        pass
    except RefusedError as error:
        context.end(error.status, str(error))
        _cancel_unless_done(call)


def _cancel_unless_done(call: _Call) -> None:
    if not call.done():
        call.cancel("the caller left")


# --- responses ---


async def _first_response(call: _Call, context: Context) -> Any:
    """
    Forward the initial metadata, and return the first message, or EOF.

    gRPC does not tell a beginning without metadata from a status that came alone, which callers'
    retry policies act on: such a beginning is forwarded when no status has come with it.
    """
    if metadata := await call.initial_metadata():
        _begin(metadata, context)
        return await call.receive_serialized_message()
    timer = context.server.loop.call_later(_TRAILERS_ONLY_S, _begin, (), context)
    try:
        return await call.receive_serialized_message()
    finally:
        timer.cancel()


async def _answer_many(call: _Call, context: Context) -> None:
    """Forward initial metadata, responses and status."""
    message = await _first_response(call, context)
    while message is not _EOF:
        if context.send(message):
            # What the caller does not read stays with the server.
            await context.wait_writable()
        message = await call.receive_serialized_message()
    _finish(await call.status(), context)


def _begin(metadata: _Metadata, context: Context) -> None:
    if not context.done():
        context.begin(_without_relay_keys(metadata))


def _finish(status: _Status, context: Context) -> None:
    """End the call as the server did, or gRPC for it; one that is OK ends when its handler does."""
    if metadata := status.trailing_metadata():
        context.set_trailing_metadata(_without_relay_keys(metadata))
    if code := status.code():
        context.end(code, status.details() or "")


def _without_relay_keys(metadata: _Metadata) -> list[tuple[str, str | bytes]]:
    """Leave out what a server behind another hub says of its own relay."""
    return [(key, value) for key, value in metadata if not key.startswith(_RELAY_PREFIX)]
