"""
What changed about one field, or extension, from one version of a message to the next. Pure.

Owns: types, cardinalities, names, oneofs and defaults of fields. Does not own: fields that come and
go (type_changes.py).
Source: the rules of `buf breaking`; docs/reference/contract-compatibility.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from relayrpc.contract.compatibility_rules import Level
from relayrpc.contract.elements import TYPE_NAMES


if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

    from relayrpc.contract.elements import FieldElement


__all__ = ["NARROWING", "TYPE_GROUPS", "Change", "field_changes", "shown"]

_SHOWN_CHARS_MAX: Final = 200

TYPE_GROUPS: Final[dict[Level, tuple[frozenset[str], ...]]] = {
    Level.WIRE: (
        frozenset({"int32", "int64", "uint32", "uint64", "bool"}),
        frozenset({"sint32", "sint64"}),
        frozenset({"fixed32", "sfixed32"}),
        frozenset({"fixed64", "sfixed64"}),
    ),
    Level.WIRE_JSON: (
        frozenset({"int32", "uint32"}),
        frozenset({"int64", "uint64"}),
        frozenset({"fixed32", "sfixed32"}),
        frozenset({"fixed64", "sfixed64"}),
    ),
}
"""By level: scalar types that buf lets take each other's place."""
# Bits of a number, and whether one of them is the sign.
_INTEGERS: Final[dict[str, tuple[int, bool]]] = {
    "bool": (1, False),
    "int32": (32, True),
    "sint32": (32, True),
    "sfixed32": (32, True),
    "uint32": (32, False),
    "fixed32": (32, False),
    "int64": (64, True),
    "sint64": (64, True),
    "sfixed64": (64, True),
    "uint64": (64, False),
    "fixed64": (64, False),
}


def _holds(old: str, new: str) -> bool:
    """Say whether an integer type has every value of another one."""
    (old_bits, old_has_sign), (new_bits, new_has_sign) = _INTEGERS[old], _INTEGERS[new]
    if old_has_sign and not new_has_sign:
        return False
    return new_bits - new_has_sign >= old_bits - old_has_sign


NARROWING: Final[Mapping[str, frozenset[str]]] = {
    old: frozenset(new for new in _INTEGERS if not _holds(old, new)) for old in _INTEGERS
}
"""Integer type -> those that cannot hold every value of it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One rule that is broken."""

    rule: str
    what: str
    """Full name of the element."""
    file: str
    text: str


def shown(name: str) -> str:
    """Return a name as it stands in a sentence; a peer may have made it as long as a file."""
    return name if len(name) <= _SHOWN_CHARS_MAX else f"{name[: _SHOWN_CHARS_MAX - 1]}…"


@dataclass(frozen=True, slots=True)
class _Field:
    """What the rules look at."""

    type: str
    type_name: str
    """Full name of the message or enum; empty: it is neither."""
    cardinality: str
    enum: EnumDescriptor | None
    default: float | bytes | None
    """None: it cannot have one."""


def field_changes(old: FieldElement, new: FieldElement, level: Level) -> Iterator[Change]:
    """
    Compare a field, or extension, with the one of the same number.

    Args:
        old: As callers have it.
        new: As hosts have it.
        level: What has to go on working.

    Yields:
        What breaks a rule, of whatever level: whoever asks leaves out what is not of theirs.
    """
    before, after = _read(old), _read(new)
    name = old.descriptor.full_name
    subject = f"field {new.descriptor.number} ({shown(name)})"

    def change(rule: str, text: str) -> Change:
        return Change(rule, name, new.file, f"{subject} {text}")

    if not _is_same_type(before, after, level):
        text = f"changed its type from {_type_of(before)} to {_type_of(after)}"
        yield change(f"FIELD_{level.name}_COMPATIBLE_TYPE", text)
    elif after.type in NARROWING.get(before.type, ()):
        text = f"changed its type from {before.type} to {after.type}, which holds fewer numbers"
        yield change("FIELD_NO_NARROWING", text)
    if _cardinality_group(before, level) != _cardinality_group(after, level):
        text = f"was {before.cardinality} and is {after.cardinality}"
        yield change(f"FIELD_{level.name}_COMPATIBLE_CARDINALITY", text)
    if not _is_same_default(before, after):
        was, now = shown(f"{before.default!r}"), shown(f"{after.default!r}")
        yield change("FIELD_SAME_DEFAULT", f"had the default {was} and has {now}")
    if old.oneof != new.oneof:
        yield change("FIELD_SAME_ONEOF", f"was {_place(old)} and is {_place(new)}")
    yield from _name_changes(old, new, change)


def _read(field: FieldElement) -> _Field:
    descriptor = field.descriptor
    target = descriptor.message_type or descriptor.enum_type
    cardinality = "required" if descriptor.is_required else "singular"
    if descriptor.is_repeated:
        cardinality = "map" if field.is_map else "repeated"
    return _Field(
        type=TYPE_NAMES[descriptor.type],
        type_name="" if target is None else target.full_name,
        cardinality=cardinality,
        enum=descriptor.enum_type,
        default=_default(descriptor),
    )


def _default(field: FieldDescriptor) -> float | bytes | None:
    if field.is_repeated or field.message_type is not None:
        return None
    if field.type == field.TYPE_FLOAT:
        # Not every implementation rounds it.
        return _to_float32(field.default_value)
    default = field.default_value
    return default.encode() if isinstance(default, str) else default


# --- types ---


def _is_same_type(before: _Field, after: _Field, level: Level) -> bool:
    """Say whether buf takes one type for the other."""
    if before.type != after.type:
        is_widened = (level, before.type, after.type) == (Level.WIRE, "string", "bytes")
        return is_widened or any({before.type, after.type} <= group for group in TYPE_GROUPS[level])
    if before.type_name == after.type_name:
        return True
    if before.enum is None or after.enum is None:
        return False
    return before.enum.name == after.enum.name and _values(before.enum) <= _values(after.enum)


def _values(enum: EnumDescriptor) -> set[tuple[int, str]]:
    return {(value.number, value.name) for value in enum.values}


def _type_of(field: _Field) -> str:
    return f"{field.type} {shown(field.type_name)}".rstrip()


# --- cardinalities ---


def _cardinality_group(field: _Field, level: Level) -> str:
    """Return the same for those of which one may take the other's place."""
    if field.cardinality == "map" and level is Level.WIRE:
        return "repeated"
    return field.cardinality


# --- defaults ---


def _is_same_default(before: _Field, after: _Field) -> bool:
    old, new = before.default, after.default
    if old is None or new is None or not (old or new):
        return True
    if {before.type, after.type} == {"float", "double"}:
        old, new = _to_float32(old), _to_float32(new)
    # What is no number differs from itself.
    return old == new or (old != old and new != new)


def _to_float32(value: Any) -> float:
    """Return the nearest number that a float has."""
    try:
        (nearest,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(nearest)


# --- names ---


def _name_changes(
    old: FieldElement, new: FieldElement, change: Callable[[str, str], Change]
) -> Iterator[Change]:
    # An extension is known by its full name, which stands for it in JSON too.
    is_extension = old.descriptor.is_extension
    before = old.descriptor.full_name if is_extension else old.descriptor.name
    after = new.descriptor.full_name if is_extension else new.descriptor.name
    if before != after:
        yield change("FIELD_SAME_NAME", f"is called {shown(after)!r} now")
    before, after = old.descriptor.json_name, new.descriptor.json_name
    if before != after and not is_extension:
        text = f"is called {shown(after)!r} in JSON now, no longer {shown(before)!r}"
        yield change("FIELD_SAME_JSON_NAME", text)


def _place(field: FieldElement) -> str:
    return f"in the oneof {shown(field.oneof)!r}" if field.oneof else "in no oneof"
