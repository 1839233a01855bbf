"""
What the exception of a handler becomes: the end of its call, saying no more than it may.

Source: docs/reference/errors.md; the behaviour of grpc's servers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import grpc.aio

from relayrpc.endpoint.metadata import InvalidMetadataError, MetadataTooLargeError
from relayrpc.link.call import STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED
from relayrpc.link.messages import MessageTooLargeError


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context


__all__ = ["RefusedError", "fail_call"]

_LOGGER: Final = logging.getLogger("relayrpc")


class RefusedError(Exception):
    """Messages cannot be given to a handler, or taken from it; ends the call with a status."""

    def __init__(self, status: int, details: str, *, not_executed: bool = False) -> None:
        """
        Args:
            status: gRPC's number.
            details: What the caller is told.
            not_executed: The handler was not called.
        """
        super().__init__(details)
        self.status = status
        self.not_executed = not_executed


def fail_call(context: Context, error: Exception, text: str | None) -> None:
    """
    End the call of a handler that raised; on the loop's thread.

    Args:
        context: Of the call.
        error: What was raised.
        text: What the caller is told where the server includes the detail of exceptions; else that
            stays here, in the log, under the id of an incident. None: what the handler has set.
    """
    if context.done():
        if not isinstance(error, grpc.aio.AbortError):
            _LOGGER.warning(
                "handler of /%s failed after the call's end", context.method, exc_info=error
            )
        return
    if isinstance(error, RefusedError):
        context.end(error.status, str(error), not_executed=error.not_executed)
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
        context.fail(text)
        return
    incident = server.make_incident_id()
    _LOGGER.error("handler of /%s failed, incident %s", context.method, incident, exc_info=error)
    context.fail(None if context.has_details else f"the handler failed, incident {incident}")
