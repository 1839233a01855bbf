"""
What a descriptor set declares, by full name, for whoever compares sets. Pure.

Types and names are as protobuf's own library resolves them; the rest is read from the files. Custom
options are never parsed: they may be anything. Python's objects for it are many times as large as
what they stand for, so as little as can be is kept.
Owns: finding what is declared. Does not own: what a difference means (compatibility.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from relayrpc.contract.fingerprint import parse_file
from relayrpc.contract.standard import standard_pool


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor as MessageDescriptor
    from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        FileDescriptorProto,
        ServiceDescriptorProto,
    )

    from relayrpc.contract.descriptors import DescriptorSet


__all__ = [
    "TYPE_NAMES",
    "Element",
    "Elements",
    "EnumElement",
    "FieldElement",
    "MessageElement",
    "ServiceElement",
    "fields_of",
]

TYPE_NAMES: Final[Mapping[int, str]] = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in FieldDescriptorProto.Type.items()
}
"""A field's type -> what .proto files call it: "int32"; "message", "enum"."""

# Elements that are noted in one step.
_STEP_ELEMENTS: Final = 256
# FeatureSet.JsonFormat.ALLOW.
_ALLOW: Final = 1


@dataclass(frozen=True, slots=True)
class MessageElement:
    """A message, as resolved and as written; also one that stands for the entries of a map."""

    descriptor: MessageDescriptor
    proto: DescriptorProto
    file: str
    """Name of its file."""
    allows_json: bool
    """Whether its `json_format` is ALLOW."""


@dataclass(frozen=True, slots=True)
class EnumElement:
    """An enum, likewise."""

    descriptor: EnumDescriptor
    proto: EnumDescriptorProto
    file: str
    allows_json: bool


@dataclass(frozen=True, slots=True)
class ServiceElement:
    """A service, likewise."""

    descriptor: ServiceDescriptor
    proto: ServiceDescriptorProto
    file: str


@dataclass(frozen=True, slots=True)
class FieldElement:
    """A field of a message, or an extension."""

    descriptor: FieldDescriptor
    file: str
    is_map: bool = False
    oneof: str = ""
    """Name; empty: it is in none."""


Element = MessageElement | EnumElement | ServiceElement | FieldElement


def fields_of(message: MessageElement) -> Iterator[FieldElement]:
    """Yield the fields of a message, in the order in which they are written."""
    prefix = f"{message.descriptor.full_name}."
    maps = {f"{prefix}{each.name}" for each in message.proto.nested_type if each.options.map_entry}
    oneofs = [oneof.name for oneof in message.proto.oneof_decl]
    fields = zip(message.descriptor.fields, message.proto.field, strict=True)
    for field, proto in fields:
        type_ = field.message_type
        # An optional field of proto3 is written as if it were in a oneof.
        is_alone = proto.proto3_optional or not proto.HasField("oneof_index")
        yield FieldElement(
            field,
            message.file,
            is_map=field.is_repeated and type_ is not None and type_.full_name in maps,
            oneof="" if is_alone else oneofs[proto.oneof_index],
        )


class Elements:
    """
    The elements of one set. Nothing can be looked up before `load()` and `index()` are through.

    Attributes:
        packages: Of files, by name.
    """

    __slots__ = ("_allow_json", "_extensions", "_named", "_pool", "packages")

    def __init__(self) -> None:
        self.packages: dict[str, str] = {}
        # By name of the file: what `json_format` is where nothing says it.
        self._allow_json: dict[str, bool] = {}
        self._pool = standard_pool()
        # Full name of a message, enum or service -> it, as written.
        self._named: dict[str, Any] = {}
        # Full name of what is extended, and number -> full name.
        self._extensions: dict[tuple[str, int], str] = {}

    def load(self, descriptors: DescriptorSet) -> Iterator[None]:
        """
        Resolve the files of a set, one with each step. Once.

        Args:
            descriptors: One whose `check()` is through.
        """
        for data in descriptors.files():
            self._pool.AddSerializedFile(data)
            yield

    def index(self, descriptors: DescriptorSet) -> Iterator[None]:
        """Note what there is to be looked up, a bounded part of it with each step. Once."""
        for data in descriptors.files():
            for count, element in enumerate(self.declared(parse_file(data))):
                if not count % _STEP_ELEMENTS:
                    yield
                if isinstance(element, FieldElement):
                    name = element.descriptor.full_name
                    self._extensions[_key(element)] = name
                else:
                    self._named[element.descriptor.full_name] = element.proto

    # --- going through a file ---

    def declared(self, file: FileDescriptorProto) -> Iterator[Element]:
        """Yield what a file declares, within messages too, but for the fields of messages."""
        allows_json = _allows_json(file, is_default=file.syntax in ("proto3", "editions"))
        self.packages[file.name] = file.package
        self._allow_json[file.name] = allows_json
        prefix = f"{file.package}." if file.package else ""
        for service in file.service:
            found = self._pool.FindServiceByName(f"{prefix}{service.name}")
            yield ServiceElement(found, service, file.name)
        yield from self._declared_in(file, prefix, file.name, allows_json=allows_json)
        # What is left to do: messages with the prefix of their names.
        left = [(prefix, allows_json, iter(file.message_type))]
        while left:
            prefix, is_allowed, messages = left[-1]
            message = next(messages, None)
            if message is None:
                left.pop()
                continue
            name = f"{prefix}{message.name}"
            allows = _allows_json(message, is_default=is_allowed)
            type_ = self._pool.FindMessageTypeByName(name)
            yield MessageElement(type_, message, file.name, allows)
            yield from self._declared_in(message, f"{name}.", file.name, allows_json=allows)
            left.append((f"{name}.", allows, iter(message.nested_type)))

    def _declared_in(
        self, scope: Any, prefix: str, file: str, *, allows_json: bool
    ) -> Iterator[EnumElement | FieldElement]:
        """Yield the enums and extensions that a file or message holds itself."""
        for enum in scope.enum_type:
            allows = _allows_json(enum, is_default=allows_json)
            found = self._pool.FindEnumTypeByName(f"{prefix}{enum.name}")
            yield EnumElement(found, enum, file, allows)
        for extension in scope.extension:
            field = self._pool.FindExtensionByName(f"{prefix}{extension.name}")
            yield FieldElement(field, file)

    # --- looking up ---

    def counterpart(self, element: Element) -> Element | None:
        """Return what has the same name as an element of another set, and is of its kind."""
        if isinstance(element, FieldElement):
            found = self._extensions.get(_key(element))
            if found is None:
                return None
            field: Any = self._pool.FindExtensionByName(found)
            return FieldElement(field, field.file.name)
        name = element.descriptor.full_name
        kind: type[Any] = type(element.proto)
        proto = self._named.get(name)
        if not isinstance(proto, kind):
            return None
        if isinstance(element, ServiceElement):
            service = self._pool.FindServiceByName(name)
            return ServiceElement(service, proto, service.file.name)
        if isinstance(element, EnumElement):
            enum = self._pool.FindEnumTypeByName(name)
            return EnumElement(enum, proto, enum.file.name, self._allows_json(enum))
        message = self._pool.FindMessageTypeByName(name)
        return MessageElement(message, proto, message.file.name, self._allows_json(message))

    def _allows_json(self, inner: MessageDescriptor | EnumDescriptor) -> bool:
        """Return what the `json_format` is that a message or enum has, or gets from around it."""
        scope: Any = inner
        while scope is not None:
            features = self._named[scope.full_name].options.features
            if features.HasField("json_format"):
                return _allows_json(self._named[scope.full_name], is_default=False)
            scope = scope.containing_type
        return self._allow_json[inner.file.name]


def _key(extension: FieldElement) -> tuple[str, int]:
    extended = extension.descriptor.containing_type
    assert extended is not None
    return extended.full_name, extension.descriptor.number


def _allows_json(holder: Any, *, is_default: bool) -> bool:
    """Return what the `json_format` of a file, message or enum is."""
    features = holder.options.features
    return features.json_format == _ALLOW if features.HasField("json_format") else is_default
