"""
Descriptor sets that no compiler made: bytes changed at random, files changed in ways that still are
files, and files that do not fit together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

from relayrpc.contract.descriptors import collect
from relayrpc.contract.fingerprint import normalise
from relayrpc.errors import ContractError
from relayrpc.v1 import hub_pb2
from tests.support.contract_versions import draw_contract, render
from tests.support.contracts import make_file, make_set, raw_set


__all__ = ["damaged_set", "whole_set"]

_NAMES = ("", "M", ".p.M", ".p.N", "p", ".p.E", "E", "a.b", ".", "x" * 300, "é", "M.N", "p.proto")
_NUMBERS = (-1, 0, 1, 2, 7, 15, 16, 1000, 18_999, 19_000, 2**29 - 1, 2**29, 2**31 - 1)


def _other_file() -> FileDescriptorProto:
    return make_file("other.proto", package="other", service="")


def whole_set(rng: random.Random) -> bytes:
    """Return a set as hosts send them."""
    kind = rng.randrange(4)
    if kind == 0:
        return collect(hub_pb2.DESCRIPTOR)
    file = render(draw_contract(rng), "p")
    if kind == 1:
        file.dependency.append("other.proto")
        return make_set(_other_file(), file)
    return make_set(file)


def damaged_set(rng: random.Random, whole: bytes) -> bytes:
    """Return a set, damaged or made up; some still can be used."""
    return rng.choice(_WAYS)(rng, whole)


# --- bytes ---


def _with_other_bytes(rng: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 9)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            case _:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.choice((8, 64, 1024))]
    return bytes(data)


def _of_any_bytes(rng: random.Random, whole: bytes) -> bytes:
    data = rng.randbytes(rng.randrange(64))
    return data if rng.random() < 0.5 else raw_set(data)


# --- files ---


def _with_other_files(rng: random.Random, whole: bytes) -> bytes:
    """Change values anywhere in the files, and write them as they are or in normal form."""
    files = list(FileDescriptorSet.FromString(whole).file)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change_message(rng, rng.choice(_messages(rng.choice(files))))
    return _written(rng, files)


def _with_other_imports(rng: random.Random, whole: bytes) -> bytes:
    """Leave files out, put them in twice, in another order, in a circle or from other contracts."""
    files = list(FileDescriptorSet.FromString(whole).file)
    if rng.random() < 0.5:
        files.append(_other_file())
    for file in files:
        if rng.random() < 0.5:
            file.dependency.append(rng.choice([each.name for each in files] + ["x", ""]))
        if rng.random() < 0.2:
            file.public_dependency.append(rng.choice((-1, 0, 1, 7)))
    match rng.randrange(4):
        case 0:
            files.pop(rng.randrange(len(files)))
        case 1:
            files.append(rng.choice(files))
        case 2:
            rng.shuffle(files)
        case _:
            files.append(render(draw_contract(rng), rng.choice(("p", "q"))))
    return _written(rng, files)


def _written(rng: random.Random, files: Sequence[FileDescriptorProto]) -> bytes:
    # Partial: some required fields of options may be missing.
    serialized = {file.name: file.SerializePartialToString() for file in files}
    if files and rng.random() < 0.5:
        with suppress(ContractError):
            return normalise(serialized, files[-1].name)
    return raw_set(*(file.SerializePartialToString() for file in files))


def _messages(top: Message) -> list[Message]:
    """Return a message with all that it holds."""
    found = [top]
    for message in found:
        for field, value in message.ListFields():
            if field.message_type is not None:
                found += value if field.is_repeated else [value]
    return found


def _change_message(rng: random.Random, message: Message) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        _change_list(rng, getattr(message, field.name), field)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(rng, field))


def _change_list(rng: random.Random, values: Any, field: FieldDescriptor) -> None:
    if len(values) and rng.random() < 0.3:
        del values[rng.randrange(len(values))]
    elif field.message_type is None:
        values.append(_value(rng, field))
    elif len(values):
        values.add().CopyFrom(rng.choice(values))
        _change_message(rng, values[-1])
    else:
        _change_message(rng, values.add())


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = rng.choice(_NAMES)
            return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice((0.0, -1.5, float("nan")))
        case _:
            numbers = _NUMBERS if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else (0, 1, 2**31)
            return rng.choice(numbers)


_WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _with_other_bytes,
    _with_other_files,
    _with_other_files,
    _with_other_imports,
    _of_any_bytes,
)
