"""
The exceptions that a failed blocking call raises: a grpc.RpcError that is also the Call and the
Future of a call that is over, and on top who ended it and whether its handler may have run.

Source: grpc.Call, grpc.Future; the behaviour of grpc's _InactiveRpcError; docs/reference/errors.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from relayrpc.endpoint.faults import as_fault
from relayrpc.endpoint.rpc_error import STATUS_BY_NUMBER, debug_text_of, trailing_metadata_of
from relayrpc.link.call import STATUS_DEADLINE_EXCEEDED, CallOutcome, Origin


if TYPE_CHECKING:
    from types import TracebackType

    from relayrpc.endpoint.metadata import Metadatum


__all__ = ["DeadlineExceededError", "RpcError", "describe_end", "make_sync_rpc_error"]


class RpcError(grpc.RpcError, grpc.Call, grpc.Future):
    """
    A call ended with another status than OK.

    Attributes:
        origin: Who ended it: "host" (the handler or its process), "hub", or "caller" (this process:
            a deadline, a lost link).
        may_have_executed: False only when it is known that the handler was never started; then it
            is safe to call again.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        initial_metadata: tuple[Metadatum, ...] = (),
        trailing_metadata: tuple[Metadatum, ...] = (),
        details: str = "",
        debug_error_string: str = "",
        *,
        origin: Origin = "caller",
        may_have_executed: bool = True,
    ) -> None:
        super().__init__()
        self._code = code
        self._initial_metadata = initial_metadata
        self._trailing_metadata = trailing_metadata
        self._details = details
        self._debug_error_string = debug_error_string
        self.origin = origin
        self.may_have_executed = may_have_executed

    # --- grpc.Call ---

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return the text that came with the status."""
        return self._details

    def initial_metadata(self) -> tuple[Metadatum, ...]:
        """Return what came before the first message, in order."""
        return self._initial_metadata

    def trailing_metadata(self) -> tuple[Metadatum, ...]:
        """Return what came with the end, in order."""
        return self._trailing_metadata

    def debug_error_string(self) -> str:
        """Say who ended the call and whether its handler may have run."""
        return self._debug_error_string

    def is_active(self) -> bool:
        """Return False: the call is over."""
        return False

    def time_remaining(self) -> None:
        """Return None: nothing is waited for."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Return False: the call is over."""
        return False

    # --- grpc.Future ---

    def cancel(self) -> bool:
        """Return False: the call is over."""
        return False

    def cancelled(self) -> bool:
        """Return False: it failed."""
        return False

    def running(self) -> bool:
        """Return False: the call is over."""
        return False

    def done(self) -> bool:
        """Return True: the call is over."""
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raise this error."""
        raise self

    def exception(self, timeout: float | None = None) -> RpcError:
        """Return this error."""
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return where this error was raised; here, if nowhere yet."""
        try:
            raise self
        except RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn(error)` now."""
        fn(self)

    def __repr__(self) -> str:
        return describe_end(self, self._code, self._details, self._debug_error_string)

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        arguments = (
            self._code,
            self._initial_metadata,
            self._trailing_metadata,
            self._details,
            self._debug_error_string,
        )
        state = {"origin": self.origin, "may_have_executed": self.may_have_executed}
        return (type(self), arguments, state)


class DeadlineExceededError(RpcError, TimeoutError):
    """The deadline passed; also what `except TimeoutError` catches."""


def make_sync_rpc_error(
    outcome: CallOutcome, initial_metadata: tuple[Metadatum, ...]
) -> RpcError:
    """As `make_rpc_error`, of a blocking call."""
    kind = DeadlineExceededError if outcome.status == STATUS_DEADLINE_EXCEEDED else RpcError
    error = kind(
        STATUS_BY_NUMBER[outcome.status],
        initial_metadata,
        trailing_metadata_of(outcome),
        outcome.details,
        debug_text_of(outcome),
        origin=outcome.origin,
        may_have_executed=outcome.may_have_executed,
    )
    return as_fault(error, outcome.trailing_metadata)


def describe_end(each: object, code: grpc.StatusCode, details: str, debug_text: str = "") -> str:
    """Describe a call or error as gRPC does."""
    end = f'\tstatus = {code}\n\tdetails = "{details}"\n'
    if debug_text:
        end += f'\tdebug_error_string = "{debug_text}"\n'
    return f"<{type(each).__name__} of RPC that terminated with:\n{end}>"
