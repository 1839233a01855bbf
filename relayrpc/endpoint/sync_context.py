"""
What a plain `def` handler gets, on its thread: a blocking grpc.ServicerContext and blocking
requests over the async ones.

Whatever touches the link runs on the server's loop; the thread waits for it. On the loop's own
thread, where a simulation runs handlers, it runs at once.
Source: grpc.ServicerContext; grpc.aio's support of handlers that are not coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import grpc
import grpc.aio

from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.sync_caller import Caller
from relayrpc.endpoint.thread_io import Receiver
from relayrpc.link.call import STATUS_CANCELLED, STATUS_INTERNAL


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.handover import Bell
    from relayrpc.endpoint.metadata import MetadataInput, Metadatum
    from relayrpc.endpoint.sync_host_session import HostSession


__all__ = ["CallOverError", "SyncContext", "SyncRequestIterator"]


_StubT = TypeVar("_StubT")


class CallOverError(grpc.aio.AbortError, grpc.RpcError):
    """The call is over, by its caller or a lost link: for a thread a way out of its handler."""


class SyncContext(grpc.ServicerContext):
    """
    The blocking face of one incoming call.

    Attributes:
        session: What the call came in; None: it came in none.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.session: HostSession | None = None
        if context.session is not None:
            self.session = context.session.plain()

    def _on_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._context.server.handover.call(function, *arguments)

    # --- about the call ---

    @property
    def method(self) -> str:
        """The method that was called, "pkg.Service/Method"."""
        return self._context.method

    def is_active(self) -> bool:
        """Return False once the call is over; a handler that takes long should look."""
        return not self._context.is_over

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return self._context.time_remaining()

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the caller's metadata, in order."""
        return self._context.invocation_metadata()

    def peer(self) -> str:
        """Return the caller's peer as its hub sees it."""
        return self._context.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the caller's identity as the hub vouches for it."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Return the key of `auth_context` that identifies the caller."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what is known of the caller."""
        return self._context.auth_context()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback()` called after the end; False when that has been."""
        context = self._context
        if context.is_over:
            return False
        self._on_loop(context.add_done_callback, lambda _: context.server.call_back(callback))
        return True

    # --- whoever called ---

    def caller(self) -> Caller:
        """
        Return a channel to whoever called, for this thread and others; it may be kept beyond the
        call.

        Raises:
            UsageError: The call is over, and it was not asked for before.
        """
        if self.session is not None:
            return self.session.caller()
        return Caller(self._on_loop(self._context.caller), self._context.server)

    def callback(self, stub_class: Callable[[grpc.Channel], _StubT]) -> _StubT:
        """Make a stub whose calls go to whoever called; as `caller().stub(stub_class)`."""
        return self.caller().stub(stub_class)

    # --- acting ---

    def send_initial_metadata(self, initial_metadata: MetadataInput) -> None:
        """Send the initial metadata now; once, and before the first message."""
        self._on_loop(self._context.begin, initial_metadata)

    def cancel(self) -> None:
        """End the call with CANCELLED."""
        self._on_loop(self._context.end, STATUS_CANCELLED, "")

    def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: MetadataInput = ()
    ) -> NoReturn:
        """End the call with a status now, and raise grpc.aio.AbortError to leave the handler."""
        self._on_loop(self._context.abort_now, code, details, trailing_metadata)
        raise AssertionError("abort_now always raises")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a `grpc.Status`."""
        self.abort(status.code, status.details, status.trailing_metadata)

    # --- status: read by the loop only after the handler has returned ---

    def set_trailing_metadata(self, trailing_metadata: MetadataInput) -> None:
        """Set what goes with the end."""
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> MetadataInput:
        """Return what was set."""
        return self._context.trailing_metadata()

    def set_code(self, code: grpc.StatusCode | int) -> None:
        """Set the status the call ends with."""
        self._context.set_code(code)

    def code(self) -> grpc.StatusCode | None:
        """Return the status that was set; None: none."""
        return self._context.code()

    def set_details(self, details: str) -> None:
        """Set the text that goes with the status."""
        self._context.set_details(details)

    def details(self) -> str:
        """Return the text that was set."""
        return self._context.details()

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: messages are not compressed on a link."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: messages are not compressed on a link."""


class SyncRequestIterator:
    """The requests of a stream, for a plain `for` on the handler's thread."""

    def __init__(
        self, context: Context, bell: Bell, deserialize: Callable[[bytes], Any]
    ) -> None:
        self._context = context
        self._deserialize = deserialize
        self._receiver = Receiver(context, handover=context.server.handover, bell=bell)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        context = self._context
        if context.server.handover.is_own_thread:
            raise RuntimeError("a plain def handler with a request stream needs its own thread")
        data = self._receiver.take()
        if context.cancelled():
            # For a thread there is no other way to say that nothing more comes.
            raise CallOverError("The call is over.")
        if data is not None:
            try:
                return self._deserialize(data)
            except RefusedError as error:
                context.server.handover.submit(context.refuse_within, error)
                raise
        assert context.inbox is not None
        if context.inbox.is_truncated:
            raise RefusedError(STATUS_INTERNAL, "the requests end within a message")
        raise StopIteration

    next = __next__
