"""
A contract some of whose methods may run twice, registered as generated code registers itself.

Messages are bytes for who serves and calls it here; the pool only needs to know the methods.
"""

from __future__ import annotations

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool


__all__ = ["SERVICE"]

SERVICE = "test.idempotent.Ledger"

_LEVELS = descriptor_pb2.MethodOptions.IdempotencyLevel
# Method -> its idempotency level; None: the contract does not say.
_METHODS = {
    "Read": _LEVELS.Value("NO_SIDE_EFFECTS"),
    "List": _LEVELS.Value("IDEMPOTENT"),
    "Collect": _LEVELS.Value("IDEMPOTENT"),
    "Begin": _LEVELS.Value("IDEMPOTENT"),
    "Hold": _LEVELS.Value("IDEMPOTENT"),
    "Write": None,
}


def _register() -> None:
    package, _, service_name = SERVICE.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/support/idempotent_contract.proto",
        package=package,
        dependency=[any_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name=service_name)
    message = f".{any_pb2.Any.DESCRIPTOR.full_name}"
    for name, level in _METHODS.items():
        method = service.method.add(name=name, input_type=message, output_type=message)
        if level is not None:
            method.options.idempotency_level = level
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_register()
