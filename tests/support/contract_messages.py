"""
Messages of two versions of a contract, and how one side sees what the other one wrote.

Owns: the values that fields of each type are tried with, and what counts as the same value.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.compatibility import Difference, Level, compare
from relayrpc.contract.descriptors import checked
from relayrpc.limits import DEFAULT_LIMITS
from tests.support.contract_versions import change, draw_contract, render
from tests.support.contracts import make_pool, make_set


__all__ = [
    "INTEGERS",
    "NAMES",
    "Sides",
    "Versions",
    "drawn",
    "is_map",
    "make_message",
    "names_of",
    "numbers_of",
    "read",
    "required",
    "seen",
    "seen_field",
    "shared",
    "type_of",
    "values_of",
]

PACKAGE = "p"
NAMES = ("p.M", "p.N", "p.O", "p.Holder")
"""Of the messages of a contract."""
Sides = tuple[DescriptorPool, DescriptorPool]
"""Who writes and who reads."""
_SIGNED = (0, 1, -1, 7, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, -(2**63))
_UNSIGNED = (0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
INTEGERS = {
    "BOOL": (0, 1),
    **dict.fromkeys(("INT32", "SINT32", "SFIXED32"), (-(2**31), 2**31 - 1)),
    **dict.fromkeys(("INT64", "SINT64", "SFIXED64"), (-(2**63), 2**63 - 1)),
    **dict.fromkeys(("UINT32", "FIXED32"), (0, 2**32 - 1)),
    **dict.fromkeys(("UINT64", "FIXED64"), (0, 2**64 - 1)),
}
"""Type -> its smallest and its largest value."""
_TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_")
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


class Versions:
    """An old contract and a new one."""

    def __init__(self, rng: random.Random) -> None:
        plan = draw_contract(rng)
        changed = change(rng, plan)
        self.syntaxes = plan.syntax, changed.syntax
        files = render(plan, PACKAGE), render(changed, PACKAGE)
        self.sets = tuple(checked(make_set(file)) for file in files)
        self.old, self.new = (make_pool(file) for file in files)

    def differences(self, level: Level) -> tuple[Difference, ...]:
        return compare(*self.sets, f"{PACKAGE}.S", level=level, limits=DEFAULT_LIMITS)

    def directions(self) -> Iterator[Sides]:
        yield self.old, self.new
        yield self.new, self.old


def drawn(rng: random.Random) -> Iterator[Versions]:
    while True:
        yield Versions(rng)


def type_of(field: FieldDescriptor) -> str:
    return _TYPE_NAMES[field.type]


def is_map(field: FieldDescriptor) -> bool:
    return field.is_repeated and has_entries(field.message_type)


def has_entries(message: Descriptor | None) -> bool:
    return message is not None and message.GetOptions().map_entry


def numbers_of(pool: DescriptorPool, name: str) -> dict[int, FieldDescriptor]:
    return dict(pool.FindMessageTypeByName(name).fields_by_number.items())


def shared(writer: DescriptorPool, reader: DescriptorPool, name: str) -> list[int]:
    """Return the numbers of the fields that a message has on both sides."""
    return sorted(numbers_of(writer, name).keys() & numbers_of(reader, name).keys())


# --- values ---


def values_of(field: FieldDescriptor) -> list[Any]:
    """Return values that a field can have; of a message, none."""
    match type_of(field):
        case "STRING":
            return ["x", "", "é"]
        case "BYTES":
            return [b"x", b"", b"\xff", "é".encode()]
        case "FLOAT" | "DOUBLE":
            return [1.5, 0.0, -2.0]
        case "BOOL":
            return [True, False]
        case "ENUM":
            numbers = [value.number for value in field.enum_type.values]
            # An open enum takes numbers that it does not name.
            return numbers if field.enum_type.is_closed else [*numbers, 77, -7]
        case "MESSAGE" | "GROUP":
            return []
        case name:
            low, high = INTEGERS[name]
            return [value for value in (*_SIGNED, *_UNSIGNED) if low <= value <= high]


def names_of(field: FieldDescriptor, number: int) -> set[str]:
    return {value.name for value in field.enum_type.values if value.number == number}


def seen(message: Message, sides: Sides) -> dict[int, Any]:
    """Return what a message holds of what both sides know, in a form that can be compared."""
    fields = message.DESCRIPTOR.fields_by_number
    numbers = shared(*sides, message.DESCRIPTOR.full_name)
    return {number: seen_field(message, fields[number], sides) for number in numbers}


def seen_field(message: Message, field: FieldDescriptor, sides: Sides) -> Any:
    value = getattr(message, field.name)
    if is_map(field):
        parts = [field.message_type.fields_by_number[number] for number in (1, 2)]
        entries = [
            {part.number: _seen(each, part, sides) for part, each in zip(parts, pair, strict=True)}
            for pair in value.items()
        ]
        return sorted(entries, key=repr)
    if field.is_repeated:
        return [_seen(each, field, sides) for each in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _seen(value, field, sides)


def _seen(value: Any, field: FieldDescriptor, sides: Sides) -> Any:
    if isinstance(value, Message):
        return seen(value, sides)
    if isinstance(value, str):
        return value.encode()
    # What protobuf gives for the text of proto2 that is none.
    return "no text" if isinstance(value, bytes) and type_of(field) == "STRING" else value


def make_message(pool: DescriptorPool, name: str) -> Message:
    return GetMessageClass(pool.FindMessageTypeByName(name))()


def read(data: bytes, name: str, pool: DescriptorPool) -> Message:
    """Read a message, whatever it lacks."""
    message = make_message(pool, name)
    message.MergeFromString(data)
    return message


def required(pool: DescriptorPool, name: str) -> set[int]:
    return {number for number, field in numbers_of(pool, name).items() if field.is_required}
