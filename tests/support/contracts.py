"""Contracts made for tests: files, pools and descriptor sets, without a compiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool

from relayrpc.contract.descriptors import load_pool
from relayrpc.contract.fingerprint import normalise


__all__ = ["make_file", "make_pool", "make_set", "raw_set", "set_pool", "varint"]

_Field = FieldDescriptorProto


def make_file(
    name: str = "t.proto",
    *,
    package: str = "t",
    fields: Mapping[str, int] | None = None,
    service: str = "Service",
    methods: Iterable[str] = ("Do",),
    imports: Iterable[str] = (),
) -> FileDescriptorProto:
    """
    Make a file with a message `M`, and a service whose methods take and give it.

    Args:
        name: Of the file.
        package: Empty: none.
        fields: Of `M`: name -> number; each is an int32.
        service: Empty: none.
        methods: Of the service, unary.
        imports: Names of files.
    """
    file = FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=imports)
    message = file.message_type.add(name="M")
    for field, number in (fields or {}).items():
        message.field.add(
            name=field, number=number, type=_Field.TYPE_INT32, label=_Field.LABEL_OPTIONAL
        )
    if service:
        prefix = f".{package}" if package else ""
        made = file.service.add(name=service)
        for method in methods:
            made.method.add(name=method, input_type=f"{prefix}.M", output_type=f"{prefix}.M")
    return file


def make_pool(*files: FileDescriptorProto) -> DescriptorPool:
    """Load files into a pool of their own."""
    return load_pool({file.name: file.SerializeToString() for file in files})


def set_pool(data: bytes) -> DescriptorPool:
    """Load a descriptor set into a pool of its own."""
    return make_pool(*FileDescriptorSet.FromString(data).file)


def make_set(*files: FileDescriptorProto) -> bytes:
    """Bring files into normal form; the last one defines the service."""
    return normalise({file.name: file.SerializeToString() for file in files}, files[-1].name)


def raw_set(*files: FileDescriptorProto | bytes) -> bytes:
    """Put files into a set as they are."""
    made = b""
    for file in files:
        data = file if isinstance(file, bytes) else file.SerializeToString()
        made += b"\x0a" + varint(len(data)) + data
    return made


def varint(value: int) -> bytes:
    """Write a number as protobuf does."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
