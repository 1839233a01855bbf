"""
Blocking calls as gRPC's objects: the Call and Future of one response, and of a response stream that
is also an iterator.

A public object is apart from its core, so that dropping it cancels the call.
Source: the behaviour of grpc's _MultiThreadedRendezvous.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import grpc

from relayrpc.endpoint.call_core import DETAILS_COLLECTED
from relayrpc.endpoint.rpc_error import STATUS_BY_NUMBER, debug_text_of, trailing_metadata_of
from relayrpc.endpoint.sync_error import describe_end


if TYPE_CHECKING:
    from types import TracebackType

    from relayrpc.endpoint.metadata import Metadatum
    from relayrpc.endpoint.sync_core import BlockingCore, SyncReplyCore, SyncStreamCore
    from relayrpc.link.call import CallOutcome


__all__ = ["StreamCall", "UnaryCall"]


class _Call(grpc.Call, grpc.Future):
    """What grpc.Call and grpc.Future offer, over `core`; dropping it cancels the call."""

    core: BlockingCore

    # --- grpc.RpcContext ---

    def is_active(self) -> bool:
        """Return True until the call is over."""
        return self.core.end is None

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return self.core.time_left_s()

    def cancel(self) -> bool:
        """Cancel the call; False when it was over."""
        return bool(self.core.on_loop(self.core.cancel_here))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have `callback()` called after the end; False when that has been."""
        if self.core.end is not None:
            return False
        self.core.soon(self.core.call_back, callback)
        return True

    # --- grpc.Call ---

    def initial_metadata(self) -> tuple[Metadatum, ...]:
        """Wait for the initial metadata, or what rules it out: a message or the end."""
        core = self.core
        core.wait_for(
            lambda: core.begin is not None or core.end is not None or core.has_message
        )
        return core.received_metadata()

    def trailing_metadata(self) -> tuple[Metadatum, ...]:
        """Wait for the end's metadata."""
        return trailing_metadata_of(self._outcome())

    def code(self) -> grpc.StatusCode:
        """Wait for the end's status."""
        return STATUS_BY_NUMBER[self._outcome().status]

    def details(self) -> str:
        """Wait for the end's details."""
        return self._outcome().details

    def debug_error_string(self) -> str:
        """Wait for the end; say who made it and if the handler may have run. Empty after OK."""
        outcome = self._outcome()
        return debug_text_of(outcome) if outcome.status else ""

    # --- grpc.Future ---

    def cancelled(self) -> bool:
        """Return True if the call was cancelled here."""
        return self.core.is_cancelled

    def running(self) -> bool:
        """Return True until the call is over."""
        return self.core.end is None

    def done(self) -> bool:
        """Return True once the call is over; messages may still wait to be read."""
        return self.core.end is not None

    def result(self, timeout: float | None = None) -> Any:
        """
        Wait for the end, and return the response; None for a stream.

        Raises:
            grpc.FutureTimeoutError: `timeout` seconds passed before. The call goes on.
            grpc.FutureCancelledError: The call was cancelled here.
            RpcError: It did not end with OK.
        """
        self._settle(timeout)
        if self.core.is_cancelled:
            raise grpc.FutureCancelledError
        return self._take_result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the end, and return what result() raises; None after OK. Raises as result()."""
        try:
            self.result(timeout)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            raise
        except Exception as exc:
            return exc
        return None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """As `exception`, its traceback."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """
        Have `fn(call)` called after the end, on the channel's thread for callbacks, or now if that
        has been. It keeps a dropped call from being cancelled.
        """
        if self.core.end is not None:
            fn(self)
        else:
            self.core.soon(self.core.call_back, functools.partial(fn, self))

    # --- inside ---

    def _settle(self, timeout_s: float | None = None) -> None:
        """Wait until what the call ended with will not change any more."""
        if not self.core.wait_over(timeout_s):
            raise grpc.FutureTimeoutError

    def _take_result(self) -> Any:
        self.core.raise_for_end()

    def _outcome(self) -> CallOutcome:
        self._settle()
        return self.core.outcome()

    def __repr__(self) -> str:
        core = self.core
        if core.end is None:
            return f"<{type(self).__name__} of RPC that is running>"
        outcome = core.outcome()
        debug_text = debug_text_of(outcome) if outcome.status else ""
        code = STATUS_BY_NUMBER[outcome.status]
        return describe_end(self, code, outcome.details, debug_text)

    def __del__(self) -> None:
        if self.core.end is None:
            self.core.soon(self.core.cancel_here, DETAILS_COLLECTED)


class UnaryCall(_Call):
    """A call with one response message: what `future()` returns, and `with_call()` beside it."""

    core: SyncReplyCore

    def __init__(self, core: SyncReplyCore) -> None:
        self.core = core
        # Held by the one thread that deserializes.
        self._lock = threading.Lock()

    def _settle(self, timeout_s: float | None = None) -> None:
        super()._settle(timeout_s)
        with self._lock:
            self.core.settle()

    def _take_result(self) -> Any:
        return self.core.take_response()


class StreamCall(_Call):
    """A call with a response stream; an iterator over the responses."""

    core: SyncStreamCore

    def __init__(self, core: SyncStreamCore) -> None:
        self.core = core
        # Held by the one thread that reads.
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._lock:
            return self.core.next_response()

    next = __next__
