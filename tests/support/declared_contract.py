"""
A contract that declares its default address, registered as generated code registers itself.

Messages are bytes for who serves and calls it here; the pool only needs to know the service.
"""

from __future__ import annotations

from typing import Final

from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.v1 import contract_pb2


__all__ = ["ADDRESS", "FILES", "METHOD", "SERVICE"]

ADDRESS: Final = "contoso/declared"
SERVICE: Final = "test.declared.Ledger"
METHOD: Final = f"/{SERVICE}/Do"


def _make_file() -> FileDescriptorProto:
    package, _, service_name = SERVICE.rpartition(".")
    file = FileDescriptorProto(
        name="tests/support/declared_contract.proto",
        package=package,
        dependency=[any_pb2.DESCRIPTOR.name, contract_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name=service_name)
    message = f".{any_pb2.Any.DESCRIPTOR.full_name}"
    service.method.add(name="Do", input_type=message, output_type=message)
    service.options.Extensions[contract_pb2.contract].address = ADDRESS
    return file


FILES: Final = (
    FileDescriptorProto.FromString(contract_pb2.DESCRIPTOR.serialized_pb),
    _make_file(),
)
"""What defines it, each behind what it imports."""

descriptor_pool.Default().AddSerializedFile(FILES[-1].SerializeToString())
