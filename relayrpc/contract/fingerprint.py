"""
The normal form of a contract's descriptors, and the fingerprint that tells contracts apart. Pure.

A contract's descriptor set is the file that defines the service with everything that it imports but
protobuf's own files. In normal form two builds of the same .proto files give the same bytes: what
compilers may write in two ways is written in one, and what means nothing to a caller is left out.
Owns: that form. Does not own: where files come from, and what is read from a set (descriptors.py).
Source: docs/adr/0016-contract-fingerprint.md; the vectors are in tests/conformance/fingerprints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from relayrpc.contract.standard import STANDARD_FILES
from relayrpc.errors import ContractError


if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


__all__ = [
    "FINGERPRINT_BYTES",
    "fingerprint_of",
    "import_order",
    "leave_out_defaults",
    "normalise",
    "parse_file",
    "parse_set",
]

FINGERPRINT_BYTES: Final = 32


def _strict_descriptor_file() -> bytes:
    """
    Return descriptor.proto, written so that text has to be text: in proto2, what it is written in,
    not every library looks. The messages' bytes are the same.
    """
    file = descriptor_pb2.FileDescriptorProto()
    descriptor_pb2.DESCRIPTOR.CopyToProto(file)
    file.syntax, file.edition = "editions", descriptor_pb2.EDITION_2023
    features = descriptor_pb2.FeatureSet
    file.options.features.enum_type = features.CLOSED
    file.options.features.repeated_field_encoding = features.EXPANDED
    messages = list(file.message_type)
    # The list grows while it is gone through.
    for message in messages:
        messages += message.nested_type
        for field in message.field:
            if field.label == field.LABEL_REQUIRED:
                field.label = field.LABEL_OPTIONAL
                field.options.features.field_presence = features.LEGACY_REQUIRED
    return file.SerializeToString()


# Classes of a pool of their own know no custom option, whatever this process has imported: else the
# bytes that are written would depend on that.
_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_strict_descriptor_file())


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"google.protobuf.{name}"))


_File: Final = _message_class("FileDescriptorProto")
_FileSet: Final = _message_class("FileDescriptorSet")


def fingerprint_of(descriptor_set: bytes) -> bytes:
    """Return the 32 bytes that name a descriptor set in normal form: their SHA-256."""
    return hashlib.sha256(descriptor_set).digest()


def parse_file(data: bytes) -> FileDescriptorProto:
    """
    Read one serialized FileDescriptorProto; custom options stay the bytes that they are.

    Raises:
        DecodeError: It is none.
    """
    file: FileDescriptorProto = _parse(_File, data)
    return file


def parse_set(data: bytes) -> FileDescriptorSet:
    """
    Read a serialized FileDescriptorSet as `parse_file` reads each file of it.

    Raises:
        DecodeError: It is none.
    """
    files: FileDescriptorSet = _parse(_FileSet, data)
    return files


def _parse(message_class: Any, data: bytes) -> Any:
    try:
        message = message_class.FromString(data)
    except UnicodeDecodeError as error:
        raise DecodeError(str(error)) from error
    # Not every library looks, and those that do would refuse it.
    if not message.IsInitialized():
        raise DecodeError("required fields are missing")
    return message


def normalise(files: Mapping[str, bytes], root: str) -> bytes:
    """
    Bring a contract's descriptors into normal form.

    Args:
        files: Serialized FileDescriptorProtos by their names; the standard ones, and those that
            `root` does not import, directly or through others, are left out.
        root: The file that defines the service.

    Returns:
        A serialized FileDescriptorSet, files in the order of `import_order()`.

    Raises:
        ContractError: A file does not parse or is missing, or imports go round in a circle.
    """
    parsed: dict[str, FileDescriptorProto] = {}
    reached = [root]
    while reached:
        name = reached.pop()
        if name not in parsed and name in files:
            try:
                parsed[name] = parse_file(files[name])
            except DecodeError as error:
                raise ContractError(f"{name!r} is no FileDescriptorProto") from error
            reached += _own(parsed[name].dependency)
    result: FileDescriptorSet = _FileSet()
    for name in import_order({name: file.dependency for name, file in parsed.items()}, root):
        _normalise_file(parsed[name])
        result.file.append(parsed[name])
    return result.SerializeToString(deterministic=True)


def import_order(imports: Mapping[str, Iterable[str]], root: str) -> list[str]:
    """
    Put files in the order of the normal form: each behind all that it imports, and what one file
    imports in the bytewise order of the names. So a set can be loaded front to back.

    Args:
        imports: The names of what each file imports, by its name; standard files do not count.
        root: The file that comes last; what it does not reach is left out.

    Raises:
        ContractError: A file is missing, or imports go round in a circle.
    """
    done: dict[str, None] = {}
    # The way from the root to where we are: each file with what it has still to visit.
    path: dict[str, Iterator[str]] = {}

    def enter(name: str) -> None:
        if name in path:
            raise ContractError(f"{name!r} imports itself, directly or through others")
        if name not in imports:
            raise ContractError(f"{name!r} is imported and missing")
        path[name] = iter(sorted(_own(imports[name]), key=str.encode))

    enter(root)
    while path:
        name = next(reversed(path))
        following = next((other for other in path[name] if other not in done), None)
        if following is not None:
            enter(following)
        else:
            del path[name]
            done[name] = None
    return list(done)


def _own(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in STANDARD_FILES]


def _normalise_file(file: FileDescriptorProto) -> None:
    file.ClearField("source_code_info")
    # Only the compiler reads them, and not every library keeps them.
    file.ClearField("option_dependency")
    if file.syntax == "proto2":
        file.ClearField("syntax")
    names: Sequence[str] = list(file.dependency)
    file.dependency[:] = ordered = sorted(names, key=str.encode)
    for indices in (file.public_dependency, file.weak_dependency):
        # An index beyond the list stays what it is; whoever reads the set refuses it.
        indices[:] = sorted(
            ordered.index(names[old]) if 0 <= old < len(names) else old for old in indices
        )
    leave_out_defaults(file)


def leave_out_defaults(message: Any) -> None:
    """Leave out what some compilers write and others do not, in all that a message holds."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                leave_out_defaults(each)
            if field.name == "options" and not value.ByteSize():
                message.ClearField("options")
        elif field.name == "json_name" and value == _json_name(message.name):
            message.ClearField("json_name")


def _json_name(name: str) -> str:
    """Return what protoc makes of a field's name."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)
