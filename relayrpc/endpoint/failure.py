"""
What the exception of a handler becomes: the end of its call, saying no more than it may.

Owns: who is asked, and in which order. Does not own: faults (faults.py).
Source: docs/reference/errors.md, faults.md; the behaviour of grpc's servers.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio

from relayrpc.endpoint.faults import Fault
from relayrpc.endpoint.metadata import InvalidMetadataError, MetadataTooLargeError
from relayrpc.endpoint.operations import undeclared_fault
from relayrpc.errors import ConfigError
from relayrpc.link.call import STATUS_INTERNAL, STATUS_RESOURCE_EXHAUSTED
from relayrpc.link.messages import MessageTooLargeError


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context


__all__ = [
    "HOST_STOPPED",
    "Answer",
    "ErrorHandler",
    "RefusedError",
    "check_error_handlers",
    "fail_call",
    "find_answer",
]

_LOGGER: Final = logging.getLogger("relayrpc")

Answer: TypeAlias = Fault[Any] | grpc.Status
"""What the call of a handler that raised may end with."""

ErrorHandler: TypeAlias = Callable[[Exception, Any], Answer | None]
"""Given what a handler raised, and the context that it had."""


class RefusedError(Exception):
    """Messages cannot be given to a handler, or taken from it; ends the call with a status."""

    def __init__(
        self,
        status: int,
        text: str,
        *,
        not_executed: bool = False,
        details: bytes = b"",
        retry_after_s: float | None = None,
    ) -> None:
        """
        Args:
            status: gRPC's number.
            text: What the caller is told.
            not_executed: The handler was not called.
            details: A serialized google.rpc.Status; empty: there are none.
            retry_after_s: How long the caller is to wait before it calls again, of a call that met
                a bound; None: nothing is said of that.
        """
        super().__init__(text)
        self.status = status
        self.not_executed = not_executed
        self.details = details
        self.retry_after_s = retry_after_s


HOST_STOPPED: Final = "the host is being stopped"
"""What is told of a call whose handler, or what looks after it, ends the process."""

# Ends of calls, not failures of handlers.
_NOT_TOLD: Final = (
    grpc.aio.AbortError,
    InvalidMetadataError,
    MessageTooLargeError,
    MetadataTooLargeError,
    RefusedError,
)


def check_error_handlers(handlers: Sequence[Any]) -> None:
    """
    Raises:
        ConfigError: One of them is none, or is async.
    """
    for each in handlers:
        if not callable(each) or inspect.iscoroutinefunction(each):
            raise ConfigError(
                f"error handler {each!r} is no plain function; it takes an exception and a "
                "context, and returns a relayrpc.Fault, a grpc.Status or None"
            )


def find_answer(context: Context, error: Exception, given: object) -> Answer | None:
    """
    Find what to end the call of a handler with that raised; on the handler's own thread.

    Args:
        context: Of the call.
        error: What was raised.
        given: The context as the handler has it.

    Returns:
        The fault that was raised, or what an error handler made of the error; None: neither.
    """
    if isinstance(error, _NOT_TOLD):
        return None
    if isinstance(error, Fault) and not _refusal(context, error):
        return error
    answer: Answer | None = None
    for handler in context.server.error_handlers:
        try:
            found = handler(error, given)
        except grpc.aio.AbortError:
            # It has ended the call.
            continue
        except Exception:
            _LOGGER.exception("an error handler failed, for a call of /%s", context.method)
            continue
        except BaseException:
            context.server.handover.submit(context.fail, HOST_STOPPED)
            raise
        fault = _check_answer(context, found)
        if fault:
            _LOGGER.error("what an error handler returned is not used: %s", fault)
        elif answer is None:
            answer = found
    return answer


def _check_answer(context: Context, found: object) -> str:
    """Say why something cannot answer an error; empty: it can, or is nothing."""
    if isinstance(found, Fault):
        return _refusal(context, found)
    if found is None or isinstance(found, grpc.Status):
        return ""
    return f"{found!r} is no relayrpc.Fault, grpc.Status or None"


def _refusal(context: Context, fault: Fault[Any]) -> str:
    """Say why a fault may not be sent; empty: it may."""
    server, method = context.server, context.method
    # What another call ended with is not to be told to callers unless they are to expect it.
    is_strict = True if isinstance(fault, grpc.RpcError) else server.strict_faults
    contract = server.contracts.of_service(method.partition("/")[0])
    name = fault.message.DESCRIPTOR.full_name
    return undeclared_fault(contract, method, name, is_strict=is_strict)


def fail_call(
    context: Context, error: Exception, text: str | None, answer: Answer | None = None
) -> None:
    """
    End the call of a handler that raised; on the loop's thread.

    Args:
        context: Of the call.
        error: What was raised.
        text: What the caller is told where the server includes the detail of exceptions; else that
            stays here, in the log, under the id of an incident. None: what the handler has set.
        answer: What `find_answer` found.
    """
    if context.done():
        if not isinstance(error, grpc.aio.AbortError | RefusedError):
            _LOGGER.warning(
                "handler of /%s failed after the call's end", context.method, exc_info=error
            )
        return
    if isinstance(error, RefusedError):
        context.refuse(error)
        return
    if isinstance(error, MetadataTooLargeError | MessageTooLargeError):
        context.end(STATUS_RESOURCE_EXHAUSTED, str(error))
        return
    if isinstance(error, InvalidMetadataError):
        context.end(STATUS_INTERNAL, str(error))
        return
    server = context.server
    if server.tracing is not None and answer is not error:
        server.tracing.record_exception(error)
    if answer is not None:
        _end_with(context, answer, text)
        return
    hint = _refusal(context, error) if isinstance(error, Fault) else ""
    if server.include_exception_detail:
        _LOGGER.error("handler of /%s failed%s", context.method, _behind(hint), exc_info=error)
        context.fail(text)
        return
    incident = server.make_incident_id()
    _LOGGER.error(
        "handler of /%s failed, incident %s%s",
        context.method,
        incident,
        _behind(hint),
        exc_info=error,
    )
    context.fail(None if context.has_details else f"the handler failed, incident {incident}")


def _end_with(context: Context, answer: Answer, text: str | None) -> None:
    try:
        context.end_with(answer.to_status() if isinstance(answer, Fault) else answer)
    except MetadataTooLargeError as error:
        what = "status"
        if isinstance(answer, Fault):
            what = f"fault {answer.message.DESCRIPTOR.full_name}"
        _LOGGER.error("the %s of /%s is not sent: %s", what, context.method, error)
        context.end(STATUS_RESOURCE_EXHAUSTED, f"the {what} is not sent: {error}")
    except Exception as error:
        # It cannot be serialized.
        fail_call(context, error, text)


def _behind(hint: str) -> str:
    return f": {hint}" if hint else ""
