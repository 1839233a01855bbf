"""
Descriptors as people write them: .proto files. Pure.

Compiled, what is written here gives the same descriptors. What is lost are comments, which
descriptor sets do not have, and options whose declaration is not imported, as with `import option`.
Owns: the language. Does not own: descriptor sets (descriptors.py).
Source: https://protobuf.dev/reference/protobuf/edition-2023-spec/, proto2-spec and proto3-spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    Edition,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from relayrpc.contract.elements import TYPE_NAMES


if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message


__all__ = ["proto_text"]

_Field = FieldDescriptorProto
_INDENT: Final = "  "
# Ends of ranges that are written as `max`.
_MESSAGE_NUMBER_MAX: Final = 2**29 - 1
_ENUM_NUMBER_MAX: Final = 2**31 - 1
_LABELS: Final = {
    _Field.LABEL_OPTIONAL: "optional ",
    _Field.LABEL_REQUIRED: "required ",
    _Field.LABEL_REPEATED: "repeated ",
}
# What begins something else than a type where a type may stand.
_WORDS: Final = frozenset(
    (
        "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32",
        "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes", "message", "enum", "service",
        "extend", "extensions", "reserved", "option", "oneof", "map", "group", "stream", "rpc",
        "optional", "required", "repeated", "returns", "local", "export", "import", "package",
        "syntax", "edition",
    )
)  # fmt: skip
_NAMED: Final = (_Field.TYPE_MESSAGE, _Field.TYPE_ENUM, _Field.TYPE_GROUP)


def proto_text(file: FileDescriptorProto, pool: DescriptorPool) -> str:
    """
    Write a file.

    Args:
        file: The file.
        pool: With it, and all that it imports.
    """
    return "\n".join(_Writer(file, pool).lines()) + "\n"


class _Writer:
    """Writes one file."""

    def __init__(self, file: FileDescriptorProto, pool: DescriptorPool) -> None:
        self._file = file
        self._pool = pool
        self._is_proto2 = file.syntax in ("", "proto2")
        self._has_editions = file.syntax == "editions"
        self._packages = set(self._visible_packages())
        # Where names are looked for, the innermost last: "", "pkg.", "pkg.Message."; and what is
        # there, None: to be asked of the pool.
        packages = ["", *(f"{each}." for each in reversed([*_prefixes(file.package)]))]
        self._scopes: list[tuple[str, set[str] | None]] = [(each, None) for each in packages]

    def lines(self) -> Iterator[str]:
        file = self._file
        if self._has_editions:
            edition = Edition.Name(file.edition).removeprefix("EDITION_")
            yield f'edition = "{edition}";'
        else:
            yield f'syntax = "{file.syntax or "proto2"}";'
        if file.package:
            yield from ("", f"package {file.package};")
        if file.dependency:
            yield ""
        for index, name in enumerate(file.dependency):
            kind = "public " if index in file.public_dependency else ""
            kind = "weak " if index in file.weak_dependency else kind
            yield f"import {kind}{_quoted(name)};"
        options = list(self._option_lines(file.options))
        yield from ["", *options] if options else ()
        for service in file.service:
            yield from ("", *self._service(service))
        for message in file.message_type:
            yield from ("", *self._message(message))
        for enum in file.enum_type:
            yield from ("", *self._enum(enum))
        for lines in self._extends(file.extension, ()):
            yield from ("", *lines)

    def _visible_packages(self) -> Iterator[str]:
        files = [self._pool.FindFileByName(self._file.name)]
        seen: set[str] = set()
        while files:
            file = files.pop()
            if file.name not in seen:
                seen.add(file.name)
                yield from _prefixes(file.package)
                files += file.dependencies

    # --- what is in a file ---

    def _service(self, service: ServiceDescriptorProto) -> Iterator[str]:
        self._enter(service.name, service.method)
        inner = [*self._option_lines(service.options)]
        for method in service.method:
            inner += self._method(method)
        self._scopes.pop()
        yield from _block(f"service {service.name}", inner)

    def _method(self, method: MethodDescriptorProto) -> Iterator[str]:
        takes = ("stream " * method.client_streaming) + self._type(method.input_type)
        gives = ("stream " * method.server_streaming) + self._type(method.output_type)
        head = f"rpc {method.name}({takes}) returns ({gives})"
        options = list(self._option_lines(method.options))
        if options:
            yield from _block(head, options)
        else:
            yield f"{head};"

    def _message(self, message: DescriptorProto, head: str = "") -> Iterator[str]:
        self._enter(
            message.name,
            message.field,
            message.oneof_decl,
            message.nested_type,
            message.enum_type,
            message.extension,
            *(enum.value for enum in message.enum_type),
        )
        head = head or f"{self._visibility(message)}message {message.name}"
        yield from _block(head, [*self._message_lines(message)])
        self._scopes.pop()

    def _message_lines(self, message: DescriptorProto) -> Iterator[str]:
        yield from self._option_lines(message.options)
        groups = {
            field.type_name.rpartition(".")[2]
            for field in (*message.field, *message.extension)
            if field.type == _Field.TYPE_GROUP
        }
        maps = {each.name: each for each in message.nested_type if each.options.map_entry}
        for nested in message.nested_type:
            if nested.name not in maps and nested.name not in groups:
                yield from self._message(nested)
        for enum in message.enum_type:
            yield from self._enum(enum)
        yield from self._fields(message, maps)
        for lines in self._extends(message.extension, message.nested_type):
            yield from lines
        for each in message.extension_range:
            numbers = _range(each.start, each.end - 1, _MESSAGE_NUMBER_MAX)
            yield f"extensions {numbers}{_brackets(self._options(each.options))};"
        reserved = [
            _range(each.start, each.end - 1, _MESSAGE_NUMBER_MAX)
            for each in message.reserved_range
        ]
        yield from self._reserved(reserved, message.reserved_name)

    def _fields(
        self, message: DescriptorProto, maps: dict[str, DescriptorProto]
    ) -> Iterator[str]:
        written: set[int] = set()
        for field in message.field:
            if not field.HasField("oneof_index") or field.proto3_optional:
                yield from self._field(field, message.nested_type, maps)
            elif field.oneof_index not in written:
                written.add(field.oneof_index)
                oneof = message.oneof_decl[field.oneof_index]
                inner = [*self._option_lines(oneof.options)]
                for each in message.field:
                    if each.HasField("oneof_index") and each.oneof_index == field.oneof_index:
                        inner += self._field(each, message.nested_type, maps)
                yield from _block(f"oneof {oneof.name}", inner)

    def _field(
        self,
        field: FieldDescriptorProto,
        nested: Iterable[DescriptorProto],
        maps: dict[str, DescriptorProto],
    ) -> Iterator[str]:
        last = field.type_name.rpartition(".")[2]
        entry = maps.get(last) if field.type == _Field.TYPE_MESSAGE else None
        brackets = _brackets(self._field_options(field))
        if entry is not None:
            key, value = (self._type_of(each) for each in entry.field)
            yield f"map<{key}, {value}> {field.name} = {field.number}{brackets};"
            return
        label = self._label(field)
        if field.type == _Field.TYPE_GROUP:
            group = next(each for each in nested if each.name == last)
            head = f"{label}group {group.name} = {field.number}{brackets}"
            yield from self._message(group, head)
            return
        yield f"{label}{self._type_of(field)} {field.name} = {field.number}{brackets};"

    def _label(self, field: FieldDescriptorProto) -> str:
        if field.HasField("oneof_index") and not field.proto3_optional:
            return ""
        is_said = self._is_proto2 or field.proto3_optional
        return _LABELS[field.label] if is_said or field.label == _Field.LABEL_REPEATED else ""

    def _field_options(self, field: FieldDescriptorProto) -> Iterator[str]:
        if field.HasField("default_value"):
            yield f"default = {_default(field)}"
        if field.HasField("json_name"):
            yield f"json_name = {_quoted(field.json_name)}"
        yield from self._options(field.options)

    def _extends(
        self, fields: Iterable[FieldDescriptorProto], nested: Iterable[DescriptorProto]
    ) -> Iterator[list[str]]:
        """Yield the lines of each `extend`: of extensions that follow each other."""
        # Groups of a file's own extensions stand among its messages.
        nested = nested or self._file.message_type
        inner: list[str] = []
        extendee = ""
        for field in fields:
            if inner and field.extendee != extendee:
                yield _block(f"extend {self._type(extendee)}", inner)
                inner = []
            extendee = field.extendee
            inner += self._field(field, nested, {})
        if inner:
            yield _block(f"extend {self._type(extendee)}", inner)

    def _enum(self, enum: EnumDescriptorProto) -> Iterator[str]:
        inner = [*self._option_lines(enum.options)]
        for value in enum.value:
            brackets = _brackets(self._options(value.options))
            inner.append(f"{value.name} = {value.number}{brackets};")
        numbers = [
            _range(each.start, each.end, _ENUM_NUMBER_MAX) for each in enum.reserved_range
        ]
        inner += self._reserved(numbers, enum.reserved_name)
        yield from _block(f"{self._visibility(enum)}enum {enum.name}", inner)

    def _reserved(self, numbers: Iterable[str], names: Iterable[str]) -> Iterator[str]:
        for kind in (numbers, [name if self._has_editions else _quoted(name) for name in names]):
            if kind:
                yield f"reserved {', '.join(kind)};"

    def _visibility(self, element: DescriptorProto | EnumDescriptorProto) -> str:
        # Of descriptors that know it; the last two of three values say something.
        return ("", "local ", "export ")[getattr(element, "visibility", 0)]

    # --- types ---

    def _type_of(self, field: FieldDescriptorProto) -> str:
        if field.type in _NAMED:
            return self._type(field.type_name)
        return TYPE_NAMES[field.type]

    def _type(self, name: str) -> str:
        """Write a full name, ".pkg.Type", as short as it means the same here."""
        full = name.removeprefix(".")
        short = full.removeprefix(f"{self._file.package}.")
        return next((text for text in (short, full) if self._means(text, full)), f".{full}")

    def _means(self, text: str, full: str) -> bool:
        """Say whether a name that is written here is that of a type: the innermost scope counts."""
        first = text.partition(".")[0]
        if first in _WORDS:
            return False
        for scope, names in reversed(self._scopes):
            if self._is_declared(f"{scope}{first}") if names is None else first in names:
                return f"{scope}{text}" == full
        return False

    def _enter(self, name: str, *declared: Iterable[Any]) -> None:
        """Go into a message or service; what was declared there hides what is outside."""
        names = {each.name for group in declared for each in group}
        self._scopes.append((f"{self._scopes[-1][0]}{name}.", names))

    def _is_declared(self, name: str) -> bool:
        if name in self._packages:
            return True
        try:
            self._pool.FindFileContainingSymbol(name)
        except KeyError:
            return False
        return True

    # --- options ---

    def _option_lines(self, options: Message) -> Iterator[str]:
        for option in self._options(options):
            yield f"option {option};"

    def _options(self, options: Message) -> Iterator[str]:
        """Yield "name = value" of each, custom ones too."""
        if not options.ByteSize():
            return
        # As the pool knows them, with all extensions.
        kind = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
        known = message_factory.GetMessageClass(kind).FromString(options.SerializeToString())
        for field, value in known.ListFields():
            if field.name == "map_entry" and not field.is_extension:
                continue
            name = f"({self._type(field.full_name)})" if field.is_extension else field.name
            for each in value if _is_repeated(field) else (value,):
                yield f"{name} = {self._value(field, each)}"

    def _value(self, field: Any, value: Any) -> str:
        if field.message_type is not None:
            inner = text_format.MessageToString(
                value, as_one_line=True, descriptor_pool=self._pool
            ).rstrip()
            return f"{{ {inner} }}" if inner else "{}"
        out = StringIO()
        text_format.PrintFieldValue(field, value, out, as_one_line=True)
        return out.getvalue()


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *(f"{_INDENT}{line}" for line in lines), "}"]


def _brackets(options: Iterable[str]) -> str:
    text = ", ".join(options)
    return f" [{text}]" if text else ""


def _range(first: int, last: int, most: int) -> str:
    if first == last:
        return f"{first}"
    return f"{first} to {'max' if last == most else last}"


def _default(field: FieldDescriptorProto) -> str:
    if field.type == _Field.TYPE_STRING:
        return _quoted(field.default_value)
    # That of bytes is escaped already.
    return f'"{field.default_value}"' if field.type == _Field.TYPE_BYTES else field.default_value


def _quoted(text: str) -> str:
    # Its escapes are JSON's, among others.
    return json.dumps(text, ensure_ascii=False)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _prefixes(package: str) -> Iterator[str]:
    """Yield a package and those around it."""
    while package:
        yield package
        package = package.rpartition(".")[0]
