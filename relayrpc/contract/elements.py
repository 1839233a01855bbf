"""
What a descriptor set declares, by full name, for whoever compares sets. Pure.

Types and names are as protobuf's own library resolves them; the rest is read from the files. Custom
options are never parsed: they may be anything.
Owns: finding what is declared. Does not own: what a difference means (compatibility.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from google.protobuf.descriptor import Descriptor as MessageDescriptor
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from relayrpc.contract.fingerprint import parse_file
from relayrpc.contract.standard import standard_pool


if TYPE_CHECKING:
    from relayrpc.contract.descriptors import DescriptorSet


__all__ = ["Element", "Elements", "EnumElement", "FieldElement", "MessageElement", "ServiceElement"]

# Elements that are noted in one step.
_STEP_ELEMENTS: Final = 256
# FeatureSet.JsonFormat.ALLOW.
_ALLOW: Final = 1

_Descriptor = TypeVar("_Descriptor")
_Proto = TypeVar("_Proto")


@dataclass(frozen=True, slots=True)
class Element(Generic[_Descriptor, _Proto]):
    """Something with a full name, as resolved and as written."""

    descriptor: _Descriptor
    proto: _Proto
    file: str
    """Name of its file."""
    allows_json: bool
    """Whether its `json_format` is ALLOW, of messages and enums."""


MessageElement = Element[MessageDescriptor, DescriptorProto]
EnumElement = Element[EnumDescriptor, EnumDescriptorProto]
FieldElement = Element[FieldDescriptor, FieldDescriptorProto]
ServiceElement = Element[ServiceDescriptor, ServiceDescriptorProto]


class Elements:
    """
    What one set declares, in the order of the set. Empty before `read()` is through.

    Attributes:
        packages: Of files, by name.
        messages: By full name, those within others and the entries of maps too.
        enums: By full name.
        extensions: By full name of what is extended, and number.
        services: By full name.
    """

    __slots__ = ("_pool", "enums", "extensions", "messages", "packages", "services")

    def __init__(self) -> None:
        self.packages: dict[str, str] = {}
        self.messages: dict[str, MessageElement] = {}
        self.enums: dict[str, EnumElement] = {}
        self.extensions: dict[tuple[str, int], FieldElement] = {}
        self.services: dict[str, ServiceElement] = {}
        self._pool = standard_pool()

    def read(self, descriptors: DescriptorSet) -> Iterator[None]:
        """
        Read a set, a bounded part of it with each step. Once.

        Args:
            descriptors: One whose `check()` is through.
        """
        for data in descriptors.files():
            self._pool.AddSerializedFile(data)
            file = parse_file(data)
            self.packages[file.name] = file.package
            for count, _ in enumerate(self._read_file(file)):
                if not count % _STEP_ELEMENTS:
                    yield

    def _read_file(self, file: FileDescriptorProto) -> Iterator[None]:
        """Note what a file declares, one element with each step."""
        prefix = f"{file.package}." if file.package else ""
        allows_json = _allows_json(file, is_default=file.syntax in ("proto3", "editions"))
        yield from self._read_scope(file, prefix, file.name, allows_json=allows_json)
        for service in file.service:
            name = f"{prefix}{service.name}"
            found = self._pool.FindServiceByName(name)
            self.services[name] = Element(found, service, file.name, allows_json)
            yield
        # What is within messages is put on the list while it is gone through.
        messages = [(prefix, allows_json, message) for message in file.message_type]
        for outer, is_allowed, message in messages:
            name = f"{outer}{message.name}"
            allows = _allows_json(message, is_default=is_allowed)
            type_ = self._pool.FindMessageTypeByName(name)
            self.messages[name] = Element(type_, message, file.name, allows)
            yield
            yield from self._read_scope(message, f"{name}.", file.name, allows_json=allows)
            messages += [(f"{name}.", allows, each) for each in message.nested_type]

    def _read_scope(
        self, scope: Any, prefix: str, file: str, *, allows_json: bool
    ) -> Iterator[None]:
        """Note the enums and extensions that a file or message holds itself."""
        for enum in scope.enum_type:
            name = f"{prefix}{enum.name}"
            allows = _allows_json(enum, is_default=allows_json)
            self.enums[name] = Element(self._pool.FindEnumTypeByName(name), enum, file, allows)
            yield
        for extension in scope.extension:
            field = self._pool.FindExtensionByName(f"{prefix}{extension.name}")
            assert field.containing_type is not None
            key = (field.containing_type.full_name, field.number)
            self.extensions[key] = Element(field, extension, file, allows_json)
            yield


def _allows_json(holder: Any, *, is_default: bool) -> bool:
    """Return what the `json_format` of a file, message or enum is."""
    features = holder.options.features
    return features.json_format == _ALLOW if features.HasField("json_format") else is_default
