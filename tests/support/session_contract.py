"""
Contracts with sessions, registered as generated code registers itself. Messages are bytes for who
serves and calls them here; the pool only needs to know the methods.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2

from relayrpc.v1 import contract_pb2


__all__ = ["ALONE", "CALLING", "CALLS", "LISTENER", "NOTES", "SERVICE"]

SERVICE = "test.sessions.Account"
"""
REQUIRED; `Open` begins one, `Put` and `Wait` go between, and four end it: `Close`, `Leave`, which
is one-way, and `Report` and `Settle`, which stream responses and requests.
"""
ALONE = "test.sessions.Alone"
"""NOT_ALLOWED; `Put`."""
CALLS = "test.sessions.Calls"
"""Says nothing of sessions; `Put`."""
CALLING = "test.sessions.Calling"
"""`Put`; calls `LISTENER` back, whose method is `Tell`."""
LISTENER = "test.sessions.Listener"
NOTES = "test.sessions.Notes"
"""`Note` is one-way; `Slow` has a default timeout of 50 ms, `Bounded` a maximum of 100 ms."""

_CONTRACT: Final[Any] = contract_pb2.contract
_OPERATION: Final[Any] = contract_pb2.operation


def _register() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/support/session_contract.proto",
        package="test.sessions",
        dependency=[
            any_pb2.DESCRIPTOR.name,
            contract_pb2.DESCRIPTOR.name,
            empty_pb2.DESCRIPTOR.name,
        ],
    )
    message = f".{any_pb2.Any.DESCRIPTOR.full_name}"
    account = file.service.add(name="Account")
    account.options.Extensions[_CONTRACT].session = contract_pb2.Contract.REQUIRED
    for name in ("Open", "Put", "Wait", "Close", "Report", "Settle"):
        method = account.method.add(name=name, input_type=message, output_type=message)
        method.server_streaming = name == "Report"
        method.client_streaming = name == "Settle"
        operation = method.options.Extensions[_OPERATION]
        operation.initiating = name == "Open"
        operation.terminating = name not in ("Open", "Put", "Wait")
    leave = account.method.add(
        name="Leave", input_type=message, output_type=f".{empty_pb2.Empty.DESCRIPTOR.full_name}"
    )
    operation = leave.options.Extensions[_OPERATION]
    operation.initiating = False
    operation.one_way = operation.terminating = True
    notes = file.service.add(name="Notes")
    method = notes.method.add(
        name="Note", input_type=message, output_type=f".{empty_pb2.Empty.DESCRIPTOR.full_name}"
    )
    method.options.Extensions[_OPERATION].one_way = True
    method = notes.method.add(name="Slow", input_type=message, output_type=message)
    method.options.Extensions[_OPERATION].default_timeout.nanos = 50_000_000
    method = notes.method.add(name="Bounded", input_type=message, output_type=message)
    method.options.Extensions[_OPERATION].maximum_timeout.nanos = 100_000_000
    calls = file.service.add(name="Calls")
    calls.method.add(name="Put", input_type=message, output_type=message)
    calling = file.service.add(name="Calling")
    calling.options.Extensions[_CONTRACT].callback = LISTENER
    calling.method.add(name="Put", input_type=message, output_type=message)
    listener = file.service.add(name="Listener")
    listener.method.add(name="Tell", input_type=message, output_type=message)
    alone = file.service.add(name="Alone")
    alone.options.Extensions[_CONTRACT].session = contract_pb2.Contract.NOT_ALLOWED
    alone.method.add(name="Put", input_type=message, output_type=message)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_register()
