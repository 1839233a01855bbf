"""
How a blocking server runs its handlers, where that differs from plain handlers of an async one:
grpc's own ServicerContext, interceptors, statuses and wording.

Source: grpc/_server.py, its behaviour; docs/reference/blocking.md.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio

from relayrpc.endpoint.failure import RefusedError
from relayrpc.endpoint.faults import Fault
from relayrpc.endpoint.handlers import UNRESOLVED, HandlerCallDetails
from relayrpc.endpoint.plain_call import PlainCall
from relayrpc.endpoint.sync_context import CallOverError, SyncContext
from relayrpc.link.call import STATUS_INTERNAL, STATUS_UNIMPLEMENTED, STATUS_UNKNOWN


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.endpoint.handlers import MethodEntry
    from relayrpc.endpoint.metadata import MetadataInput


__all__ = ["ServicerCall", "ServicerContext"]

_LOGGER: Final = logging.getLogger("relayrpc")
# What grpc's context says where there is no deadline.
_NO_DEADLINE_S: Final = float(2**63)


class ServicerContext(SyncContext):
    """What a handler of a blocking server gets as its context: as grpc's, in every detail."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._details: bytes | None = None
        self._trailing: MetadataInput = None
        self._code: grpc.StatusCode | None = None

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, at least 0; hundreds of years without one."""
        remaining_s = super().time_remaining()
        return _NO_DEADLINE_S if remaining_s is None else remaining_s

    def send_initial_metadata(self, initial_metadata: MetadataInput) -> None:
        """
        Send the initial metadata now; once, and before the first message.

        Raises:
            ValueError: It was sent before, or a message was.
            grpc.RpcError: The call is over.
        """
        if self._context.cancelled():
            raise CallOverError("The call is over.")
        try:
            super().send_initial_metadata(initial_metadata)
        except grpc.aio.UsageError:
            raise ValueError("Initial metadata no longer allowed!") from None

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:  # type: ignore[override]  # grpc's
        """End the call with a status now, and raise to leave the handler."""
        if code is grpc.StatusCode.OK:
            _LOGGER.error("abort() called with StatusCode.OK; returning UNKNOWN")
            code, details = grpc.StatusCode.UNKNOWN, ""
        self.set_code(code)
        self.set_details(details)
        if self._context.is_over:
            # Twice, or too late.
            raise CallOverError("The call is over.")
        super().abort(_status_of(code), details)

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a `grpc.Status`, such as rich status details."""
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)

    def set_trailing_metadata(self, trailing_metadata: MetadataInput) -> None:
        """Set what goes with the end."""
        super().set_trailing_metadata(trailing_metadata)
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> MetadataInput:
        """Return what was set; None: nothing."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status the call ends with."""
        super().set_code(_status_of(code))
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """Return the status that was set; None: none."""
        return self._code

    def set_details(self, details: str) -> None:
        """Set the text that goes with the status."""
        self._details = details.encode()
        super().set_details(details)

    def details(self) -> bytes | None:  # type: ignore[override]  # grpc's
        """Return the text that was set, encoded; None: none."""
        return self._details


class ServicerCall(PlainCall):
    """One call of a blocking server."""

    context_kind = ServicerContext
    # Where an exception came from, for those who are told.
    _failing: str = "calling application"

    def serve(self) -> None:
        """Find the handler where interceptors have a say, and call it."""
        context = self.context
        if context.entry is UNRESOLVED:
            entry = self.resolve()
            if entry is None:
                raise RefusedError(STATUS_UNIMPLEMENTED, "Method not found!", not_executed=True)
            context.entry = entry
            if context.place is not None and not context.place.is_first:
                # No thread waits for calls that were made before.
                self.is_handed_back = True
                return
        super().serve()

    def call(self, entry: MethodEntry, request: Any) -> Any:
        """Call the program's function."""
        result = super().call(entry, request)
        return self._iterate(result) if entry.has_response_stream else result

    def _iterate(self, responses: Any) -> Iterator[Any]:
        self._failing = "iterating responses"
        yield from responses

    def resolve(self) -> MethodEntry | None:
        """Run the interceptors; None when they or the table give no handler."""
        context = self.context
        details = HandlerCallDetails(f"/{context.method}", context.invocation_metadata())
        try:
            handler = self._intercept_from(0, details)
            entry = None if handler is None else context.server.make_entry(context, handler)
        except Exception as exc:
            _LOGGER.exception("Exception servicing handler of /%s", context.method)
            raise RefusedError(
                STATUS_UNKNOWN, "Error in service handler!", not_executed=True
            ) from exc
        return entry

    def _intercept_from(self, index: int, details: Any) -> grpc.RpcMethodHandler | None:
        server = self.context.server
        if index < len(server.interceptors):
            go_on: Callable[[Any], Any] = functools.partial(self._intercept_from, index + 1)
            return server.interceptors[index].intercept_service(go_on, details)
        return server.find_handler(details)

    def deserialize(self, data: bytes) -> Any:
        """Make the program's object of a request."""
        try:
            return super().deserialize(data)
        except (Fault, RefusedError):
            # The one may be an inspector's.
            raise
        except Exception as exc:
            _LOGGER.exception("request deserializer of /%s failed", self.context.method)
            # Of a stream the handler has begun.
            not_executed = not self.context.entry.has_request_stream
            raise RefusedError(
                STATUS_INTERNAL, "Exception deserializing request!", not_executed=not_executed
            ) from exc

    def serialize(self, response: Any) -> bytes:
        """
        Make bytes of a response. As to grpc's server, None is none; anything else that is none
        would leave grpc's caller without an answer.
        """
        try:
            serializer = self.context.entry.serializer
            data = response if serializer is None else serializer(response)
            if not isinstance(data, bytes):
                raise TypeError(f"a response is bytes, not {type(data).__name__}")
        except Fault:
            raise
        except Exception as exc:
            _LOGGER.exception("response serializer of /%s failed", self.context.method)
            raise RefusedError(STATUS_INTERNAL, "Failed to serialize response!") from exc
        return data

    def describe(self, error: Exception) -> str | None:
        """Say what callers are told of an exception where they are told."""
        return None if self.context.has_details else f"Exception {self._failing}: {error}"


def _status_of(code: object) -> grpc.StatusCode:
    """Take what grpc's blocking server takes for a status; the rest is UNKNOWN to it."""
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
