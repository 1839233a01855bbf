"""
Every public name of grpc.aio's channel, calls, server and context, and what a relay's do.

Data only; tests/integration/test_grpc_surface.py compares it with grpcio, with the relay and with
docs/reference/grpc-compatibility.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import grpc.aio

import relayrpc.aio
from relayrpc.endpoint import multicallable, stream_call, unary_call
from relayrpc.endpoint.context import Context


__all__ = ["CLASSES", "SAME", "SURFACE", "Difference"]


@dataclass(frozen=True)
class Difference:
    """How a name is not as in grpcio; the page says it in words."""

    kind: Literal["differs", "no effect", "raises"]
    test: str
    """What shows it, "file.py::test_name" below tests/."""


SAME = None
"""As in grpcio."""

CLASSES: dict[str, list[tuple[type, type]]] = {
    "Channel": [(grpc.aio.Channel, relayrpc.aio.Channel)],
    "MultiCallable": [
        (grpc.aio.UnaryUnaryMultiCallable, multicallable.UnaryUnaryMultiCallable),
        (grpc.aio.UnaryStreamMultiCallable, multicallable.UnaryStreamMultiCallable),
        (grpc.aio.StreamUnaryMultiCallable, multicallable.StreamUnaryMultiCallable),
        (grpc.aio.StreamStreamMultiCallable, multicallable.StreamStreamMultiCallable),
    ],
    "Call": [
        (grpc.aio.UnaryUnaryCall, unary_call.UnaryUnaryCall),
        (grpc.aio.UnaryStreamCall, stream_call.UnaryStreamCall),
        (grpc.aio.StreamUnaryCall, unary_call.StreamUnaryCall),
        (grpc.aio.StreamStreamCall, stream_call.StreamStreamCall),
    ],
    "Server": [(grpc.aio.Server, relayrpc.aio.Server)],
    "ServicerContext": [(grpc.aio.ServicerContext, Context)],
}
"""Name on the page -> grpc.aio's classes, and the relay's for each."""

_OPTIONS = "integration/test_options.py"
_OBJECTS = "integration/test_call_objects.py"
_ENDS = "integration/test_call_ends.py"
_CALLS = "integration/test_calls_as_grpcio.py"
_HANDLERS = "integration/test_handlers_as_grpcio.py"
_HERE = "integration/test_grpc_surface.py"
_METHODS = Difference("raises", f"{_OBJECTS}::test_method_that_no_link_can_carry_is_refused_alone")
_NO_PORT = Difference("raises", f"{_OBJECTS}::test_what_cannot_be_honoured_raises_at_once")
_NOT_COMPRESSED = Difference("no effect", f"{_HERE}::test_compression_is_accepted")
_SERIALIZING = Difference("differs", f"{_ENDS}::test_failing_serializers_are_internal_errors")
_IDENTITY = Difference("differs", f"{_HERE}::test_context_knows_the_caller_by_the_hub")
_WRONG_SHAPE = Difference("raises", f"{_HANDLERS}::test_relay_answers_for_a_handler_that")

SURFACE: dict[str, dict[str, Difference | None]] = {
    "Channel": {
        "__aenter__": SAME,
        "__aexit__": SAME,
        "channel_ready": Difference("differs", f"{_HERE}::test_closing_ends_waiting_for_the_hub"),
        "close": SAME,
        "get_state": Difference("differs", f"{_HERE}::test_ready_means_that_the_hub_is_reached"),
        "stream_stream": _METHODS,
        "stream_unary": _METHODS,
        "unary_stream": _METHODS,
        "unary_unary": _METHODS,
        "wait_for_state_change": SAME,
    },
    "MultiCallable": {
        "__call__": _NOT_COMPRESSED,
    },
    "Call": {
        "__aiter__": SAME,
        "__await__": _SERIALIZING,
        "add_done_callback": SAME,
        "cancel": SAME,
        "cancelled": SAME,
        "code": SAME,
        "details": SAME,
        "done": SAME,
        "done_writing": SAME,
        "initial_metadata": SAME,
        "read": Difference("differs", f"{_HERE}::test_what_arrived_can_be_read_after_the_end"),
        "time_remaining": Difference(
            "differs", "integration/test_interceptors.py"
            "::test_client_interceptors_of_every_kind_run_in_order"
        ),
        "trailing_metadata": SAME,
        "wait_for_connection": SAME,
        "write": Difference("differs", f"{_HERE}::test_request_that_cannot_be_written_ends_a_call"),
    },
    "Server": {
        "add_generic_rpc_handlers": Difference(
            "raises", f"{_OBJECTS}::test_generic_handler_without_a_service_is_refused"
        ),
        "add_insecure_port": _NO_PORT,
        "add_registered_method_handlers": Difference(
            "raises", f"{_OBJECTS}::test_server_starts_once"
        ),
        "add_secure_port": _NO_PORT,
        "start": Difference("raises", f"{_HERE}::test_server_that_cannot_start_says_why"),
        "stop": Difference("differs", f"{_OBJECTS}::test_smaller_grace_ends_a_stop_that_waits"),
        "wait_for_termination": Difference(
            "raises", f"{_OBJECTS}::test_server_that_is_replaced_says_so"
        ),
    },
    "ServicerContext": {
        "abort": Difference("differs", f"{_HANDLERS}::test_relay_answers_for_a_handler_that"),
        "abort_with_status": SAME,
        "add_done_callback": SAME,
        "auth_context": _IDENTITY,
        "cancelled": Difference(
            "differs", f"{_ENDS}::test_deadline_ends_the_call_and_cancels_the_handler"
        ),
        "code": SAME,
        "details": SAME,
        "disable_next_message_compression": _NOT_COMPRESSED,
        "done": SAME,
        "invocation_metadata": Difference("differs", f"{_OPTIONS}::test_user_agent_is_told"),
        "peer": _IDENTITY,
        "peer_identities": _IDENTITY,
        "peer_identity_key": _IDENTITY,
        "read": _WRONG_SHAPE,
        "send_initial_metadata": SAME,
        "set_code": SAME,
        "set_compression": _NOT_COMPRESSED,
        "set_details": SAME,
        "set_trailing_metadata": SAME,
        "time_remaining": SAME,
        "trailing_metadata": SAME,
        "write": _WRONG_SHAPE,
    },
}  # fmt: skip
