"""
The exceptions a failed call raises: gRPC's own, and on top who ended the call and whether its
handler may have run.

Owns: turning a `CallOutcome` into an exception. Does not own: what an outcome may claim (LINK.md).
Source: DESIGN.md "What a caller is told"; docs/reference/errors.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from grpc.aio import AioRpcError, Metadata

from relayrpc.endpoint.faults import as_fault
from relayrpc.endpoint.metadata import Metadatum, decode_pairs
from relayrpc.link.call import STATUS_DEADLINE_EXCEEDED, CallOutcome, Origin


__all__ = [
    "STATUS_BY_NUMBER",
    "DeadlineExceededError",
    "RpcError",
    "debug_text_of",
    "make_rpc_error",
    "status_name",
    "trailing_metadata_of",
]

STATUS_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {
    code.value[0]: code for code in grpc.StatusCode
}
_STATUS_NAMES: Final[dict[int, str]] = {
    number: code.name for number, code in STATUS_BY_NUMBER.items()
}


def status_name(number: int) -> str:
    """Return gRPC's name of a status, "UNKNOWN" for numbers that have none."""
    return _STATUS_NAMES.get(number, "UNKNOWN")


class RpcError(AioRpcError):
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
        initial_metadata: Metadata | None = None,
        trailing_metadata: Metadata | None = None,
        details: str | None = None,
        debug_error_string: str | None = None,
        *,
        origin: Origin = "caller",
        may_have_executed: bool = True,
    ) -> None:
        super().__init__(code, initial_metadata, trailing_metadata, details, debug_error_string)
        self.origin = origin
        self.may_have_executed = may_have_executed

    if TYPE_CHECKING:
        # Every call's has both. Were they None too, a checker would say that no fault is one of
        # these.
        def details(self) -> str: ...
        def trailing_metadata(self) -> Metadata: ...

    def __reduce__(self) -> tuple[object, ...]:
        made, arguments = super().__reduce__()[:2]
        state = {"origin": self.origin, "may_have_executed": self.may_have_executed}
        return (made, arguments, state)


class DeadlineExceededError(RpcError, TimeoutError):
    """The deadline passed; also what `except TimeoutError` catches."""


def make_rpc_error(outcome: CallOutcome, initial_metadata: Metadata) -> RpcError:
    """Make the exception of a call that did not end with OK; a fault, where its class is known."""
    kind = DeadlineExceededError if outcome.status == STATUS_DEADLINE_EXCEEDED else RpcError
    error = kind(
        STATUS_BY_NUMBER[outcome.status],
        initial_metadata,
        Metadata(*trailing_metadata_of(outcome)),
        outcome.details,
        debug_text_of(outcome),
        origin=outcome.origin,
        may_have_executed=outcome.may_have_executed,
    )
    return as_fault(error, outcome.trailing_metadata)


def debug_text_of(outcome: CallOutcome) -> str:
    """Say who ended a call and whether its handler may have run."""
    return f"origin={outcome.origin}, may_have_executed={outcome.may_have_executed}"


def trailing_metadata_of(outcome: CallOutcome) -> tuple[Metadatum, ...]:
    """
    Make the trailers a caller sees, in order.

    To an end the relay made, the relay's own trailers are added; what a handler sent stays as it
    was: without them, the handler may have run, and its host has ended the call.
    """
    metadata = decode_pairs(outcome.trailing_metadata)
    if not outcome.status or (outcome.origin == "host" and outcome.may_have_executed):
        return metadata
    may_have_executed = "true" if outcome.may_have_executed else "false"
    return (
        *metadata,
        Metadatum("relay-origin", outcome.origin),
        Metadatum("relay-may-have-executed", may_have_executed),
    )
