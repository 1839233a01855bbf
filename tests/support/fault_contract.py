"""
Contracts with faults, registered as generated code registers itself, and classes for the faults.
Requests and responses are bytes for who serves and calls them here.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from google.rpc.error_details_pb2 import QuotaFailure, ResourceInfo

import relayrpc
from relayrpc.v1 import contract_pb2


__all__ = ["FREE", "METHODS", "SERVICE", "OutOfStockFault", "QuotaFault"]

SERVICE: Final = "test.faults.Shop"
"""Each of METHODS declares OutOfStockFault; `Look` declares none."""
FREE: Final = "test.faults.Free"
"""No operation declares one; the same methods."""
METHODS: Final = ("UU", "US", "SU", "SS")

_OPERATION: Final[Any] = contract_pb2.operation


class OutOfStockFault(relayrpc.Fault[ResourceInfo]):
    """Declared."""


class QuotaFault(relayrpc.Fault[QuotaFailure]):
    """Not declared."""


def _register() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/support/fault_contract.proto",
        package="test.faults",
        dependency=[
            any_pb2.DESCRIPTOR.name,
            contract_pb2.DESCRIPTOR.name,
            error_details_pb2.DESCRIPTOR.name,
        ],
    )
    message = f".{any_pb2.Any.DESCRIPTOR.full_name}"
    for name in ("Shop", "Free"):
        service = file.service.add(name=name)
        for method in (*METHODS, "Look"):
            made = service.method.add(
                name=method,
                input_type=message,
                output_type=message,
                client_streaming=method[0] == "S",
                server_streaming=method[1] == "S",
            )
            if name == "Shop" and method in METHODS:
                operation = made.options.Extensions[_OPERATION]
                operation.faults.append(ResourceInfo.DESCRIPTOR.full_name)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_register()
