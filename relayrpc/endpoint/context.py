"""
One incoming call: the handler's grpc.aio.ServicerContext, and the link's CallApp, in one object.

Owns: requests in, responses out, status, the end. Does not own: running the handler (dispatch.py).
Source: grpc.aio.ServicerContext; link/call.py, CallApp; docs/reference/errors.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

import grpc
import grpc.aio

from relayrpc.endpoint.caller import Caller, Reach
from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.metadata import (
    EMPTY,
    MetadataInput,
    Metadatum,
    Pairs,
    check_size,
    decode_metadata,
    encode_metadata,
)
from relayrpc.endpoint.rpc_error import STATUS_BY_NUMBER
from relayrpc.endpoint.silent_call import REFUSED_CALL
from relayrpc.errors import FrameTooLargeError, UsageError
from relayrpc.link.call import (
    DETAILS_KEY,
    STATUS_CANCELLED,
    STATUS_INTERNAL,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
    STATUS_UNIMPLEMENTED,
    STATUS_UNKNOWN,
    Call,
    retry_pushback,
)
from relayrpc.link.messages import encode_message


if TYPE_CHECKING:
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.host_session import HostSession
    from relayrpc.endpoint.inbox import Inbox
    from relayrpc.endpoint.order import Place
    from relayrpc.endpoint.plain_call import PlainCall
    from relayrpc.endpoint.server import Server
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Context", "RequestIterator", "current_call", "status_number"]

_StubT = TypeVar("_StubT")

_ABORTED: Final = "Locally aborted."
_IDENTITY_KEY: Final = "relay_identity"


def take_only_message(inbox: Inbox) -> bytes:
    """
    Take the one request of a unary method.

    Raises:
        RefusedError: There was none, more than one, or a part of one.
    """
    if inbox.is_truncated:
        raise RefusedError(STATUS_INTERNAL, "the request ends within a message", not_executed=True)
    if len(inbox.messages) != 1:
        count = "no request" if not inbox.messages else "more than one request"
        raise RefusedError(
            STATUS_UNIMPLEMENTED, f"{count} for a method that takes one", not_executed=True
        )
    return inbox.messages.popleft()


def status_number(code: object) -> int:
    """Return the number of a status, or of what a program gave for one; nonsense is UNKNOWN."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return number if isinstance(number, int) and number in STATUS_BY_NUMBER else STATUS_UNKNOWN


class Context(grpc.aio.ServicerContext):
    """
    What an `async def` handler gets as its context.

    `set_compression` and `disable_next_message_compression` do nothing: messages are not compressed
    on a link.
    """

    __slots__ = (
        "_callbacks",
        "_caller",
        "_details",
        "_is_aborted",
        "_is_begun",
        "_is_cancelled",
        "_metadata",
        "_opening",
        "_status",
        "_trailing",
        "_trailing_pairs",
        "_writers",
        "call",
        "deadline_s",
        "entry",
        "inbox",
        "is_called",
        "is_refused",
        "is_started",
        "method",
        "place",
        "plain",
        "request",
        "server",
        "session",
        "task",
    )

    def __init__(self, server: Server, call: Call, opening: pb.Open, entry: MethodEntry) -> None:
        self.server = server
        # None once the call is over, whoever ended it.
        self.call: Call | None = call
        self.entry = entry
        # "pkg.Service/Method".
        self.method = call.method
        self.deadline_s = call.deadline_s
        self._opening = opening
        # The one request, when it came whole with the OPEN; else what comes is in the inbox.
        self.request: bytes | None = None
        self.inbox: Inbox | None = None
        self.task: asyncio.Task[None] | None = None
        # The task has taken its first step: from then on it is the one to leave().
        self.is_started = False
        # The handler was called, or is with no `await` before.
        self.is_called = False
        # The caller was told that it was not executed.
        self.is_refused = False
        # What runs a plain handler, while a thread of the pool has the call or will; told whenever
        # something changes.
        self.plain: PlainCall | None = None
        self.session: HostSession | None = None
        # In the order of the session's calls; None: there is no session.
        self.place: Place | None = None
        self._caller: Caller | None = None
        self._is_begun = False
        self._is_aborted = False
        self._is_cancelled = False
        self._status: int | None = None
        self._details = ""
        self._trailing: MetadataInput = ()
        self._trailing_pairs: Pairs = EMPTY
        self._metadata: tuple[Metadatum, ...] | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._writers: list[asyncio.Future[None]] | None = None

    # --- CallApp ---

    def begin_received(self, begin: pb.Begin) -> None:
        """Never called: initial metadata goes the other way."""

    def data_received(self, data: bytes) -> None:
        """Take request bytes."""
        if self.call is None:
            return
        inbox = self.inbox
        assert inbox is not None
        try:
            inbox.receive(data)
        except FrameTooLargeError as exc:
            self.end(STATUS_RESOURCE_EXHAUSTED, str(exc))
            self.cancel_handler()
        if self.plain is not None:
            self.plain.bell.ring()

    def half_close_received(self) -> None:
        """Note that no more requests come."""
        if self.inbox is not None:
            self.inbox.end()
            if self.plain is not None:
                self.plain.bell.ring()

    def send_ready(self) -> None:
        """Let waiting writers go on."""
        self._wake_writers()
        if self.plain is not None:
            self.plain.bell.ring()

    def call_ended(self, end: pb.End) -> None:
        """Cancel the handler: the caller cancelled, the deadline passed, or the link is lost."""
        if self.call is None:
            return
        self._status = end.status
        self._is_cancelled = True
        self._finish()
        self.cancel_handler()

    # --- ending ---

    def cancel_handler(self) -> None:
        """
        Cancel the handler, whether it has begun or not; one that runs in a thread can only be told.

        Whoever still reads for it must not take the end of the call for the end of the requests.
        """
        self._is_cancelled = True
        if self.task is not None:
            self.task.cancel()
        if not self.is_started:
            self.leave()

    def give_up(self, details: str) -> None:
        """
        End the call because this side goes away, and cancel its handler: one that was not called
        will not be.
        """
        # First: a thread says that it calls the handler, and then looks at this.
        self._is_cancelled = True
        self.end(STATUS_UNAVAILABLE, details, not_executed=not self.is_called)
        self.cancel_handler()

    def leave(self) -> None:
        """Note that nothing runs for this call any more."""
        self.task = None
        self._caller = None
        self.server.left(self)

    def reply(self, response: Any) -> None:
        """End the call with the one response of a handler that returned."""
        if self.call is None:
            return
        if self._status:
            self.end(self._status, self._details)
            return
        serializer = self.entry.serializer
        if serializer is not None:
            data = serializer(response)
        else:
            data = b"" if response is None else response
        self.reply_bytes(encode_message(data, self.server.limits.message_sent_bytes_max))

    def reply_bytes(self, data: bytes) -> None:
        """End the call with OK and an encoded message."""
        call = self.call
        if call is None:
            return
        link = call.link
        link.end_call(call, data=data, trailing_metadata=self._trailing_pairs)
        link.flush_soon()
        self._finish()

    def complete(self) -> None:
        """End the call of a handler whose responses are all written."""
        self.end(self._status or 0, self._details)

    def end(self, status: int, details: str, *, not_executed: bool = False) -> None:
        """End the call with a status; nothing happens after the end."""
        call = self.call
        if call is None:
            return
        link = call.link
        link.end_call(
            call,
            status=status,
            details=details,
            trailing_metadata=self._trailing_pairs,
            not_executed=not_executed,
        )
        link.flush_soon()
        self.is_refused = not_executed
        self._status = status
        self._details = details
        self._finish()

    def end_with(self, status: grpc.Status) -> None:
        """
        End the call as a `grpc.Status` says; OK is UNKNOWN. What was set as trailing metadata goes
        with it, but for keys that the status has.

        Raises:
            UsageError, InvalidMetadataError, MetadataTooLargeError, TypeError: Its trailing
                metadata cannot be sent.
        """
        limit_bytes = self.server.limits.metadata_bytes_max
        pairs = encode_metadata(status.trailing_metadata, limit_bytes=limit_bytes)
        keys = {key for key, _ in pairs}
        pairs = (*(pair for pair in self._trailing_pairs if pair[0] not in keys), *pairs)
        check_size(pairs, limit_bytes)
        self._trailing_pairs = pairs
        self.end(status_number(status.code) or STATUS_UNKNOWN, status.details)

    def refuse(self, error: RefusedError) -> None:
        """End the call for messages that no handler can have, or that cannot be taken from it."""
        pairs = EMPTY
        if error.details:
            pairs = ((DETAILS_KEY, error.details),)
        if error.retry_after_s is not None:
            key, value = retry_pushback(error.retry_after_s)
            pairs = (*pairs, (key, value.encode()))
        if pairs:
            # In the place of a handler's own, so that they have room.
            self._trailing_pairs = pairs
        self.end(error.status, str(error), not_executed=error.not_executed)

    def refuse_within(self, error: RefusedError) -> None:
        """As `refuse()`, of a request for which a handler waits: it is not to go on without it."""
        self.refuse(error)
        self.cancel_handler()

    def fail(self, details: str | None) -> None:
        """
        End the call of a handler that raised.

        Args:
            details: What to tell; None: what the handler has set, which the program meant to be
                told.
        """
        self.end(self._status or STATUS_UNKNOWN, self._details if details is None else details)

    @property
    def end_status(self) -> int:
        """The status that the call ended with, gRPC's number; only after its end."""
        return self._status or 0

    @property
    def has_status(self) -> bool:
        """True when the handler set another status than OK: a response it returns is dropped."""
        return bool(self._status)

    @property
    def is_begun(self) -> bool:
        """True when initial metadata or a message was sent."""
        return self._is_begun

    @property
    def has_details(self) -> bool:
        """True when the handler set details."""
        return bool(self._details)

    def _finish(self) -> None:
        if self._caller is not None:
            # Its line, which belongs to this call, would keep all of this for as long as it runs.
            assert self.call is not None
            self.call.app = REFUSED_CALL
        self.call = None
        if self.place is not None:
            self.place.give()
        if self.inbox is not None:
            self.inbox.close()
        if self._writers is not None:
            self._wake_writers()
        if self._callbacks is not None:
            for callback in self._callbacks:
                self.server.loop.call_soon(callback, self)
            self._callbacks = None
        if self.plain is not None:
            self.plain.call_over()

    # --- requests ---

    def open_inbox(self, data: bytes, *, is_complete: bool) -> None:
        """
        Take requests that did not come whole in one OPEN.

        Args:
            data: What came in the OPEN.
            is_complete: Nothing follows.
        """
        # The OPEN as a whole would keep its batch in memory for as long as a stream lasts.
        self.invocation_metadata()
        opening = type(self._opening)()
        opening.caller_peer = self._opening.caller_peer
        opening.caller_identity = self._opening.caller_identity
        self._opening = opening
        assert self.call is not None
        # The data in an OPEN needs no credit, and gives none back.
        self.inbox = self.server.make_inbox(self.call, credit_bytes=len(data))
        if data:
            self.data_received(data)
        if is_complete:
            self.inbox.end()
        else:
            self.inbox.start()

    async def take_request(self) -> bytes:
        """
        Wait for the one request of a unary method.

        Raises:
            RefusedError: There was none, more than one, or a part of one.
        """
        while not self.has_whole_request:
            assert self.inbox is not None
            await self.inbox.wait(self.server.loop)
        return self.take_whole_request()

    @property
    def has_whole_request(self) -> bool:
        """True when it is known what a unary method is given."""
        inbox = self.inbox
        return inbox is None or inbox.is_over or len(inbox.messages) > 1

    def take_whole_request(self) -> bytes:
        """
        Take the one request of a unary method, when it is known.

        Raises:
            RefusedError: There was none, more than one, or a part of one.
        """
        if self.request is not None:
            request, self.request = self.request, None
            return request
        assert self.inbox is not None
        return take_only_message(self.inbox)

    async def read(self) -> Any:
        """
        Return the next request, or grpc.aio.EOF after the last one.

        Raises:
            UsageError: The method takes one request, and the handler has it.
        """
        if not self.entry.has_request_stream:
            raise grpc.aio.UsageError("read() on a method that takes one request")
        self._require_not_aborted()
        inbox = self.inbox
        assert inbox is not None
        while not inbox.messages:
            if self.call is None and self._is_cancelled:
                raise asyncio.CancelledError
            if inbox.is_over:
                if inbox.is_truncated:
                    raise RefusedError(STATUS_INTERNAL, "the requests end within a message")
                return grpc.aio.EOF
            await inbox.wait(self.server.loop)
        return self.make_request(inbox.take())

    def make_request(self, data: bytes) -> Any:
        """
        Make the program's object of a request of a stream.

        Raises:
            RefusedError: The handler may not have it; the call is over.
        """
        deserializer = self.entry.deserializer
        if deserializer is None:
            return data
        try:
            return deserializer(data)
        except RefusedError as error:
            self.refuse_within(error)
            raise

    # --- responses ---

    def send(self, message: Any) -> bool:
        """
        Send one message of a response stream.

        Returns:
            True when too much is unsent: wait with wait_writable().

        Raises:
            AbortError: The handler has aborted the call.
            asyncio.CancelledError: It is over.
        """
        call = self.call
        if call is None:
            self._require_not_aborted()
            raise asyncio.CancelledError
        serializer = self.entry.serializer
        data = message if serializer is None else serializer(message)
        limits = self.server.limits
        self.send_bytes(encode_message(data, limits.message_sent_bytes_max))
        return call.unsent_bytes > limits.send_queue_bytes_high

    def send_bytes(self, data: bytes) -> None:
        """Send an encoded message of a response stream; nothing happens after the end."""
        call = self.call
        if call is None:
            return
        link = call.link
        link.send_data(call, data)
        link.flush_soon()
        self._is_begun = True

    async def wait_writable(self) -> None:
        """Wait until enough was sent, or the call is over."""
        if self._writers is None:
            self._writers = []
        writer: asyncio.Future[None] = self.server.loop.create_future()
        self._writers.append(writer)
        await writer

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, None
        for writer in writers or ():
            if not writer.done():
                writer.set_result(None)

    async def write(self, message: Any) -> None:
        """
        Send one message of a response stream; waits while too much is unsent.

        Raises:
            UsageError: The method has one response, which is returned.
        """
        if not self.entry.has_response_stream:
            raise grpc.aio.UsageError("write() on a method that returns its one response")
        if self.send(message):
            await self.wait_writable()

    async def send_initial_metadata(self, initial_metadata: MetadataInput) -> None:
        """Send the initial metadata now; once, and before the first message."""
        self.begin(initial_metadata)

    def begin(self, initial_metadata: MetadataInput) -> None:
        """As `send_initial_metadata`."""
        self._require_not_aborted()
        if self._is_begun:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        pairs = encode_metadata(
            initial_metadata, limit_bytes=self.server.limits.metadata_bytes_max
        )
        self._is_begun = True
        if self.call is not None:
            link = self.call.link
            link.begin_call(self.call, pairs)
            link.flush_soon()

    # --- status ---

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: MetadataInput = (),
    ) -> NoReturn:
        """
        End the call with a status now, and raise grpc.aio.AbortError to leave the handler.

        Args:
            code: What is no status is UNKNOWN, and so is OK.
            details: Empty: what was set.
            trailing_metadata: Empty: what was set.

        Raises:
            UsageError: It was called before.
        """
        self.abort_now(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a `grpc.Status`, such as rich status details."""
        self.abort_now(status.code, status.details, status.trailing_metadata)

    def abort_now(
        self, code: grpc.StatusCode, details: str, trailing_metadata: MetadataInput
    ) -> NoReturn:
        """As `abort`. OK, which is no reason to abort, becomes UNKNOWN."""
        if self._is_aborted:
            raise grpc.aio.UsageError("Abort already called!")
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self.end(status_number(code) or STATUS_UNKNOWN, details or self._details)
        self._is_aborted = True
        raise grpc.aio.AbortError(_ABORTED)

    def _require_not_aborted(self) -> None:
        if self._is_aborted:
            raise grpc.aio.AbortError(_ABORTED)

    def set_trailing_metadata(self, trailing_metadata: MetadataInput) -> None:
        """Set what goes with the end."""
        self._trailing_pairs = encode_metadata(
            trailing_metadata, limit_bytes=self.server.limits.metadata_bytes_max
        )
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> MetadataInput:
        """Return what was set."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode | int) -> None:
        """Set the status the call ends with."""
        self._status = status_number(code)

    def code(self) -> grpc.StatusCode | None:
        """Return the status that was set; None: none."""
        return None if self._status is None else STATUS_BY_NUMBER[self._status]

    def set_details(self, details: str) -> None:
        """Set the text that goes with the status."""
        self._details = details

    def details(self) -> str:
        """Return the text that was set."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: messages are not compressed on a link."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: messages are not compressed on a link."""

    # --- about the call ---

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the caller's metadata, in order."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._opening.metadata)
        return self._metadata

    def peer(self) -> str:
        """Return the caller's peer as its hub sees it, "ipv4:127.0.0.1:51234"."""
        return self._opening.caller_peer

    def peer_identity_key(self) -> str | None:
        """
        Return the key of `auth_context` that identifies the caller; None for a caller without
        identity.
        """
        return _IDENTITY_KEY if self._opening.caller_identity else None

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the caller's identity as the hub vouches for it."""
        identity = self._opening.caller_identity
        return [identity.encode()] if identity else None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what is known of the caller."""
        context: dict[str, Iterable[bytes]] = {"transport_security_type": [b"relay"]}
        identities = self.peer_identities()
        if identities is not None:
            context[_IDENTITY_KEY] = identities
        return context

    def caller(self) -> Caller:
        """
        Return a channel to whoever called, which may be kept beyond the call.

        Raises:
            UsageError: The call is over, and it was not asked for before; or it is a callback.
        """
        if self.server.serves_channel:
            raise UsageError(
                "a callback calls its host by the channel that serves it; context.caller() and "
                "context.callback() are for hosts"
            )
        if self.session is not None:
            return self.session.caller()
        if self._caller is None:
            if self.call is None:
                raise UsageError("the call is over; ask for its caller while it runs")
            if not isinstance(self.call, Call):
                raise UsageError(
                    "a call with a dedupe key runs for all who make it: nobody is called back"
                )
            reach = Reach(self.server.loop)
            reach.open_line(self.call, now_s=self.server.clock())
            self._caller = Caller(self.server.live, reach)
            self.server.lines[self._caller] = None
        return self._caller

    def callback(self, stub_class: Callable[[grpc.aio.Channel], _StubT]) -> _StubT:
        """Make a stub whose calls go to whoever called; as `caller().stub(stub_class)`."""
        return self.caller().stub(stub_class)

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        if self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - self.server.clock())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback(context)` called soon after the end."""
        if self.call is None:
            self.server.loop.call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """
        Return True if the call ended without this handler: by the caller, its deadline, or a lost
        link.
        """
        return self._is_cancelled or (self.call is None and self._status == STATUS_CANCELLED)

    def done(self) -> bool:
        """Return True if the call is over."""
        return self.call is None

    @property
    def is_over(self) -> bool:
        """As `done()`."""
        return self.call is None


current_call: Final[ContextVar[Context | None]] = ContextVar("relayrpc_call", default=None)
"""
The call that is served: by the thread of a plain handler, below interceptors, or as a callback;
None: none is, or nobody asks.
"""


class RequestIterator:
    """The requests of a stream, for `async for`. A message that is here does not suspend."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        context = self._context
        inbox = context.inbox
        if inbox is not None and inbox.messages:
            return context.make_request(inbox.take())
        request = await context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request
