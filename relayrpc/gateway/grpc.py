"""
Native gRPC: any gRPC client calls the hub's gRPC port as if the hub were the service.

Each client connection gets a link of its own to the hub, so that its calls share one budget and the
hub treats it as it treats any caller. Payloads stay bytes.
Owns: gRPC's server side of such calls, links per connection. Does not own: the port
(hub/grpc_door.py), routing, what a call's end says (endpoint/).
Source: DESIGN.md decision 9 and "Front doors"; LINK.md "What a call's end may claim".
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from relayrpc.endpoint.anchor import SESSION_METHOD, AnchorFault
from relayrpc.endpoint.channel import Channel
from relayrpc.endpoint.metadata import MetadataTooLargeError, encode_invocation_metadata
from relayrpc.endpoint.rpc_error import RpcError, trailing_metadata_of
from relayrpc.endpoint.silent_call import refuse_callback
from relayrpc.hub.grpc_door import named_address
from relayrpc.hub.local import local_link
from relayrpc.link.call import (
    RETRY_PUSHBACK_KEY,
    STATUS_CANCELLED,
    STATUS_FAILED_PRECONDITION,
    retry_pushback,
)
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.call_core import CallCore
    from relayrpc.endpoint.stream_call import StreamStreamCall, UnaryStreamCall
    from relayrpc.endpoint.unary_call import StreamUnaryCall, UnaryUnaryCall
    from relayrpc.hub.session import HubSessions
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call


__all__ = ["NativeGateway"]

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_UnaryCall: TypeAlias = "UnaryUnaryCall | StreamUnaryCall"
_StreamCall: TypeAlias = "UnaryStreamCall | StreamStreamCall"

_IDENTITY: Final = "$grpc"
_ORIGIN_KEY: Final = "relay-origin"
# Told to a client whose call may have run, so that its retry policy does not run it again.
_PUSHBACK: Final = (RETRY_PUSHBACK_KEY, "-1")
_STOPPED: Final = "the hub stopped"
_SESSION_KEY: Final = "relay-session"
_SESSION_SUFFIX: Final = f"/{SESSION_METHOD}"
_SESSION_NAME_BYTES: Final = 16
_SESSION_ABORTED: Final = "the client aborted the session"
_NO_SESSION: Final = "this connection has no such session, or it is over"
_KINDS: Final = {
    int(pb.SHAPE_UNARY_UNARY): "unary_unary",
    int(pb.SHAPE_UNARY_STREAM): "unary_stream",
    int(pb.SHAPE_STREAM_UNARY): "stream_unary",
}
# Handlers and callables are kept for this many methods; clients may make up names.
_METHODS_MAX: Final = 1024


class _Methods:
    """What calls the methods of one channel; made when first called."""

    __slots__ = ("_callables", "channel")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._callables: dict[tuple[str, str], Callable[..., Any]] = {}

    def method(self, kind: str, name: str) -> Callable[..., Any]:
        """Return what calls a method; `kind` as Channel's methods are named."""
        key = (kind, name)
        found = self._callables.get(key)
        if found is None:
            if len(self._callables) >= _METHODS_MAX:
                self._callables.clear()
            found = self._callables[key] = getattr(self.channel, kind)(name)
        return found


class _Client(_Methods):
    """One client connection: its link, as a channel, and the calls that are open on it."""

    __slots__ = ("calls_open_count", "idle_since_s", "sessions")

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.calls_open_count = 0
        # Monotonic seconds; of a client without calls.
        self.idle_since_s = 0.0
        # By what the client was told to name them.
        self.sessions: dict[str, _Methods] = {}


class _ClientSession:
    """A client's session: what the calls belong to that name it."""

    def __init__(self, core: CallCore) -> None:
        self._core = core

    @property
    def is_ready(self) -> bool:
        """Always: its client was told its name when a host had it."""
        return True

    async def ready(self, method: str, wait_for_ready: bool) -> None:
        """Never called."""

    def call_for(self, method: str, core: CallCore) -> Call:
        """Return the call that the session is."""
        call = self._core.call
        if call is None:
            raise AnchorFault(STATUS_FAILED_PRECONDITION, _NO_SESSION)
        return call


class NativeGateway(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio ships no types
    """
    Takes every call that the gRPC port has no service of its own for.

    Its metadata `relay-address` names the address; without it calls go to the service's default
    address.
    """

    def __init__(self, sessions: HubSessions) -> None:
        """
        Args:
            sessions: Of the hub. Its limits' `native_*` count here.
        """
        self._sessions = sessions
        self._limits = sessions.limits
        self._link_limits = _link_limits(sessions.limits)
        self._router = sessions.forwarder.router
        # By gRPC's name of the peer, as connections cannot be told apart otherwise.
        self._clients: dict[str, _Client] = {}
        self._handlers: dict[tuple[str, int], grpc.RpcMethodHandler] = {}
        self._calls_open_count = 0
        # While finished() waits for the last call.
        self._idle: asyncio.Event | None = None
        self._is_closed = False
        # Due while there are clients.
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what serves a method, in the shape that its hosts announced."""
        method = details.method.removeprefix("/")
        address = named_address(details.invocation_metadata) or method.partition("/")[0]
        shape = self._router.shape(address, method)
        handler = self._handlers.get((method, shape))
        if handler is None:
            if len(self._handlers) >= _METHODS_MAX:
                self._handlers.clear()
            handler = self._handlers[method, shape] = self._make_handler(method, shape)
        return handler

    def _make_handler(self, method: str, shape: int) -> grpc.RpcMethodHandler:
        # A method nobody announced, or not everybody with the same shape, can be any shape.
        kind = _KINDS.get(shape, "stream_stream")
        answer = _answer_one if kind.endswith("unary") else _answer_many

        # A plain function: grpc looks into it with every call, and through a partial for long.
        async def serve(request: bytes | AsyncIterator[bytes], context: _Context) -> Any:
            return await self._serve(answer, kind, method, request, context)

        handler: grpc.RpcMethodHandler = getattr(grpc, f"{kind}_rpc_method_handler")(serve)
        return handler

    async def finished(self) -> None:
        """Wait until no call is open; what a slow client has yet to read counts."""
        self._idle = asyncio.Event()
        if self._calls_open_count:
            await self._idle.wait()

    async def aclose(self) -> None:
        """End the links; calls that are left end with them. Idempotent."""
        self._is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        clients = list(self._clients.values())
        self._clients.clear()
        await asyncio.gather(*[client.channel.close() for client in clients], *self._closing)

    # --- one call ---

    async def _serve(
        self,
        answer: Callable[[Any, _Context], Awaitable[Any]],
        kind: str,
        method: str,
        request: bytes | AsyncIterator[bytes],
        context: _Context,
    ) -> Any:
        if self._is_closed or self._calls_open_count >= self._limits.native_calls_max:
            await self._refuse(context)
        client = self._client(context.peer())
        client.calls_open_count += 1
        self._calls_open_count += 1
        try:
            is_session = method.endswith(_SESSION_SUFFIX)
            if not isinstance(request, bytes):
                task = asyncio.current_task()
                assert task is not None
                request = _requests(context, task)
                if is_session:
                    request = _dropped(request)
            given = context.invocation_metadata()
            methods: _Methods | None = client
            name = next((value for key, value in given if key == _SESSION_KEY), None)
            if name is not None:
                given = [entry for entry in given if entry[0] != _SESSION_KEY]
                methods = client.sessions.get(name)
            if methods is None:
                code = grpc.StatusCode.FAILED_PRECONDITION
                await _end_here(context, code, _NO_SESSION, may_have_executed=False)
            try:
                metadata = encode_invocation_metadata(
                    given, limit_bytes=self._limits.metadata_bytes_max, has_user_agent=True
                )
                call = methods.method(kind, method)(
                    request, timeout=context.time_remaining(), metadata=metadata
                )
            except (grpc.aio.InternalError, grpc.aio.UsageError) as error:
                code = grpc.StatusCode.INVALID_ARGUMENT
                await _end_here(context, code, str(error), may_have_executed=False)
            except MetadataTooLargeError as error:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await _end_here(context, code, str(error), may_have_executed=False)
            if is_session:
                return await self._relay_session(client, call, context)
            return await _relay(answer, call, context)
        finally:
            self._calls_open_count -= 1
            client.calls_open_count -= 1
            if not client.calls_open_count:
                client.idle_since_s = self._sessions.clock()
            if self._idle is not None and not self._calls_open_count:
                self._idle.set()

    async def _relay_session(
        self, client: _Client, call: StreamStreamCall, context: _Context
    ) -> Any:
        """Hand on a call that is a session, and let its client's calls belong to it meanwhile."""
        core = call.core
        name = client.channel.live.token_hex(_SESSION_NAME_BYTES)
        client.sessions[name] = _Methods(
            Channel(
                client.channel.live,
                address=named_address(context.invocation_metadata()),
                anchor=_ClientSession(core),
                owns_link=False,
            )
        )
        try:
            return await _relay(_answer_many, call, context, ((_SESSION_KEY, name),))
        except asyncio.CancelledError:
            # Its client aborts it: gRPC does not know that these belong to it.
            for running in list(client.sessions[name].channel.calls):
                running.fail(STATUS_CANCELLED, _SESSION_ABORTED)
            raise
        finally:
            del client.sessions[name]

    async def _refuse(self, context: _Context) -> NoReturn:
        """End a call that cannot be taken now."""
        if self._is_closed:
            code = grpc.StatusCode.UNAVAILABLE
            await _end_here(context, code, _STOPPED, may_have_executed=False)
        await _end_here(
            context,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"this hub has {self._calls_open_count} calls of gRPC clients open; try later",
            retry_pushback(self._limits.retry_after_s),
            may_have_executed=False,
        )

    # --- clients ---

    def _client(self, peer: str) -> _Client:
        client = self._clients.get(peer)
        if client is None:
            live = local_link(
                self._sessions,
                identity=_IDENTITY,
                peer=peer,
                on_call=_refuse_callback,
                limits=self._link_limits,
            )
            channel = Channel(live)
            # gRPC does not tell a client that cancels from one that is lost.
            channel.cancel_reason = pb.Cancel.REASON_CALLER_LOST
            client = self._clients[peer] = _Client(channel)
            if self._sweep_timer is None:
                self._sweep_later()
        return client

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep_timer = loop.call_later(self._limits.native_idle_s, self._sweep)

    def _sweep(self) -> None:
        """End the links of clients that have not called for long: gRPC does not say who left."""
        self._sweep_timer = None
        idle_until_s = self._sessions.clock() - self._limits.native_idle_s
        for peer, client in list(self._clients.items()):
            if not client.calls_open_count and client.idle_since_s <= idle_until_s:
                del self._clients[peer]
                task = asyncio.get_running_loop().create_task(client.channel.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        if self._clients:
            self._sweep_later()


def _link_limits(limits: Limits) -> Limits:
    """Return the bounds of clients' links: what nobody reads stays with who sends it."""
    return dataclasses.replace(
        limits,
        # The next message is read when all of the one before has left, so with credit at hand.
        send_queue_bytes_high=0,
        # A host may send as far ahead of its client as a client ahead of its host.
        window_bytes_max=max(limits.initial_credit_bytes, limits.grpc_window_bytes),
    )


async def _relay(
    answer: Callable[[Any, _Context], Awaitable[Any]],
    call: _UnaryCall | _StreamCall,
    context: _Context,
    own_metadata: tuple[tuple[str, str], ...] = (),
) -> Any:
    """
    Hand on what a call brings, in gRPC's order: initial metadata, messages, status.

    Args:
        answer: Hands on the messages.
        call: Made for the client.
        context: Of the client's call.
        own_metadata: What the hub adds to the initial metadata of a call that is taken.

    Raises:
        AbortError: It ended with another status than OK, which was sent.
        asyncio.CancelledError: Nobody is left to hand it to.
    """
    core = call.core
    try:
        await core.wait_begin()
        if core.begin is not None or core.has_initial_metadata:
            await context.send_initial_metadata((*core.received_metadata(), *own_metadata))
        response = await answer(call, context)
    except RpcError as error:
        trailing = error.trailing_metadata()
        if error.origin == "caller":
            # The gateway called, and it is the hub to its client.
            trailing[_ORIGIN_KEY] = "hub"
        if error.may_have_executed and _PUSHBACK[0] not in trailing:
            trailing.add(*_PUSHBACK)
        await _end(context, error.code(), error.details() or "", *trailing)
    except grpc.aio.InternalError as error:
        # gRPC took no more: it has ended the call, as the client left or metadata is against its
        # rules. A return would have it try again, and log that.
        raise asyncio.CancelledError from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The client is still there: it is the hub that ended its calls.
        await _end_here(
            context,
            grpc.StatusCode.UNAVAILABLE,
            _STOPPED,
            may_have_executed=core.end is None or not core.end.not_executed,
        )
    finally:
        # Over, unless the client left or cancelled.
        call.cancel()
    end = core.end
    assert end is not None, "a call that did not raise has ended"
    if end.trailing_metadata or end.details:
        outcome = core.outcome()
        context.set_trailing_metadata(trailing_metadata_of(outcome))
        context.set_details(outcome.details)
    return response


def _refuse_callback(call: Call, _opening: pb.Open) -> None:
    refuse_callback(call, "it is a gRPC client without the relay's library")


async def _answer_one(call: _UnaryCall, _context: _Context) -> bytes:
    response: bytes = await call
    return response


async def _answer_many(call: _StreamCall, context: _Context) -> None:
    async for message in call:
        # Returns when gRPC took it: what the client does not read stays at the host.
        await context.write(message)


async def _requests(context: _Context, task: asyncio.Task[Any]) -> AsyncIterator[bytes]:
    """
    Yield what a client sends, one at a time: the next is read when the last has left.

    Args:
        context: Of the call.
        task: Serves the call; gRPC cancels it when the client has.
    """
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message
    # gRPC ends the requests of a client that cancelled as if they were complete, and says that it
    # did in an event behind that one; what is read now comes behind both.
    await context.read()
    if task.cancelling():
        raise asyncio.CancelledError


async def _dropped(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield nothing, for as long as there are messages: those of a session say nothing."""
    async for _ in messages:
        pass
    return
    yield b""


async def _end_here(
    context: _Context,
    code: grpc.StatusCode,
    details: str,
    *trailing: tuple[str, str],
    may_have_executed: bool,
) -> NoReturn:
    """End a call that nobody else has ended."""
    executed = "true" if may_have_executed else "false"
    own = ((_ORIGIN_KEY, "hub"), ("relay-may-have-executed", executed))
    if may_have_executed:
        trailing = (*trailing, _PUSHBACK)
    await _end(context, code, details, *own, *trailing)


async def _end(
    context: _Context, code: grpc.StatusCode, details: str, *trailing: tuple[str, str | bytes]
) -> NoReturn:
    """
    End a call with another status than OK.

    Nothing goes before it, not even the empty message that gRPC sends for a handler that returns: a
    client's retry policy acts on a status that comes alone, and on no other.
    """
    try:
        await context.abort(code, details, trailing)
    except grpc.aio.InternalError as error:
        # The client is gone.
        raise asyncio.CancelledError from error
    raise AssertionError("abort() returned")
