"""
What changed about a message, an enum or a service, from one version to the next. Pure.

Owns: what comes and goes in them, and methods. Does not own: one field (field_changes.py).
Source: the rules of `buf breaking`; docs/reference/contract-compatibility.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodOptions

from relayrpc.contract.elements import fields_of
from relayrpc.contract.field_changes import Change, field_changes, shown


if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from relayrpc.contract.compatibility_rules import Level
    from relayrpc.contract.elements import (
        EnumElement,
        FieldElement,
        MessageElement,
        ServiceElement,
    )


__all__ = ["enum_changes", "message_changes", "service_changes"]

# First and last number.
_Range = tuple[int, int]
_Step = Change | None


def message_changes(old: MessageElement, new: MessageElement, level: Level) -> Iterator[_Step]:
    """
    Compare a message with the one of the same name.

    Yields:
        What breaks a rule, and None in between: after each field that was looked at.
    """
    name = old.descriptor.full_name
    change = _maker(name, new.file)
    yield from _json_format_changes("MESSAGE_SAME_JSON_FORMAT", old, new, change)
    # Here the last number of a range is the first one behind it.
    reserved = _merged((each.start, each.end - 1) for each in new.proto.reserved_range)
    ranges = ((each.start, each.end - 1) for each in old.proto.reserved_range)
    names = set(new.proto.reserved_name)
    yield from _reserved_changes("MESSAGE", old, ranges, reserved, names, change)
    yield from _required_changes(old, new, change)
    fields = {field.descriptor.number: field for field in fields_of(new)}
    for field in fields_of(old):
        yield None
        number = field.descriptor.number
        if number in fields:
            yield from field_changes(field, fields[number], level)
        else:
            yield from _deletion_changes(field, new, reserved, names)


def _deletion_changes(
    field: FieldElement, new: MessageElement, reserved: list[_Range], names: set[str]
) -> Iterator[Change]:
    name, number = field.descriptor.full_name, field.descriptor.number
    subject = f"field {number} ({shown(name)}) is gone"
    if not _is_in(number, reserved):
        text = f"{subject} and its number is not reserved"
        yield Change("FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED", name, new.file, text)
    if field.descriptor.name not in names:
        text = f"{subject} and its name is not reserved"
        yield Change("FIELD_NO_DELETE_UNLESS_NAME_RESERVED", name, new.file, text)


def _required_changes(
    old: MessageElement, new: MessageElement, change: Callable[[str, str], Change]
) -> Iterator[Change]:
    before, after = (
        {
            field.number: field.name
            for field in message.proto.field
            if field.label == FieldDescriptorProto.LABEL_REQUIRED
        }
        for message in (old, new)
    )
    for number in sorted(before.keys() ^ after.keys()):
        known, word = (before, "no longer") if number in before else (after, "now")
        text = f"field {number} ({shown(known[number])}) is {word} one that is required"
        yield change("MESSAGE_SAME_REQUIRED_FIELDS", text)


# --- enums ---


def enum_changes(old: EnumElement, new: EnumElement) -> Iterator[_Step]:
    """
    Compare an enum with the one of the same name.

    Yields:
        What breaks a rule, and None in between: after each number that was looked at.
    """
    change = _maker(old.descriptor.full_name, new.file)
    yield from _json_format_changes("ENUM_SAME_JSON_FORMAT", old, new, change)
    reserved = _merged((each.start, each.end) for each in new.proto.reserved_range)
    ranges = ((each.start, each.end) for each in old.proto.reserved_range)
    reserved_names = set(new.proto.reserved_name)
    yield from _reserved_changes("ENUM", old, ranges, reserved, reserved_names, change)
    values = _names_by_number(new)
    for number, names in _names_by_number(old).items():
        yield None
        if number in values:
            if not set(names) <= set(values[number]):
                text = f"{_value(number, names)} is called {shown(', '.join(values[number]))} now"
                yield change("ENUM_VALUE_SAME_NAME", text)
            continue
        if not _is_in(number, reserved):
            text = f"{_value(number, names)} is gone and its number is not reserved"
            yield change("ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED", text)
        if not reserved_names.issuperset(names):
            text = f"{_value(number, names)} is gone and its name is not reserved"
            yield change("ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED", text)


def _value(number: int, names: list[str]) -> str:
    return f"value {number} ({shown(', '.join(names))})"


def _names_by_number(enum: EnumElement) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for value in enum.proto.value:
        found.setdefault(value.number, []).append(value.name)
    return found


# --- services ---


def service_changes(
    old: ServiceElement, new: ServiceElement, *, is_kept: bool
) -> Iterator[_Step]:
    """
    Compare a service with the one of the same name.

    Args:
        old: As callers have it.
        new: As hosts have it.
        is_kept: Whether it has to have all its methods still.

    Yields:
        What breaks a rule, and None in between: after each method that was looked at.
    """
    methods = {method.name: method for method in _methods(new)}
    levels = {method.name: method.options.idempotency_level for method in new.proto.method}
    for method, proto in zip(_methods(old), old.proto.method, strict=True):
        yield None
        change = _maker(method.full_name, new.file)
        if method.name in methods:
            yield from _shape_changes(method, methods[method.name], change)
            before, after = proto.options.idempotency_level, levels[method.name]
            if before != after:
                word = MethodOptions.IdempotencyLevel.Name
                text = f"was {word(before)} and is {word(after)}"
                yield change("RPC_SAME_IDEMPOTENCY_LEVEL", text)
        elif is_kept:
            yield change("RPC_NO_DELETE", "is gone")


def _methods(service: ServiceElement) -> Iterable[MethodDescriptor]:
    return service.descriptor.methods


def _shape_changes(
    old: MethodDescriptor, new: MethodDescriptor, change: Callable[[str, str], Change]
) -> Iterator[Change]:
    for rule, verb, before, after in (
        ("RPC_SAME_REQUEST_TYPE", "takes", old.input_type, new.input_type),
        ("RPC_SAME_RESPONSE_TYPE", "returns", old.output_type, new.output_type),
    ):
        if before.full_name != after.full_name:
            now, no_longer = shown(after.full_name), shown(before.full_name)
            yield change(rule, f"{verb} {now} now, no longer {no_longer}")
    for rule, noun, was, is_now in (
        ("RPC_SAME_CLIENT_STREAMING", "requests", old.client_streaming, new.client_streaming),
        ("RPC_SAME_SERVER_STREAMING", "responses", old.server_streaming, new.server_streaming),
    ):
        if was != is_now:
            yield change(rule, f"{'has' if is_now else 'no longer has'} a stream of {noun}")


# --- what messages and enums share ---


def _maker(what: str, file: str) -> Callable[[str, str], Change]:
    return lambda rule, text: Change(rule, what, file, f"{shown(what)}: {text}")


def _json_format_changes(
    rule: str,
    old: MessageElement | EnumElement,
    new: MessageElement | EnumElement,
    change: Callable[[str, str], Change],
) -> Iterator[Change]:
    if old.allows_json and not new.allows_json:
        yield change(rule, "json_format is no longer ALLOW")


def _reserved_changes(
    kind: str,
    old: MessageElement | EnumElement,
    ranges: Iterable[_Range],
    reserved: list[_Range],
    names: set[str],
    change: Callable[[str, str], Change],
) -> Iterator[_Step]:
    rule = f"RESERVED_{kind}_NO_DELETE"
    for first, last in ranges:
        yield None
        if not _is_in(first, reserved, last):
            numbers = f"{first}" if first == last else f"{first} to {last}"
            yield change(rule, f"no longer reserves {numbers}")
    for name in old.proto.reserved_name:
        yield None
        if name not in names:
            yield change(rule, f"no longer reserves {shown(name)!r}")


def _merged(ranges: Iterable[_Range]) -> list[_Range]:
    """Put ranges in order, and those that touch together."""
    merged: list[_Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _is_in(first: int, merged: list[_Range], last: int | None = None) -> bool:
    """Say whether a number, or all from one to another, are in one of the ranges."""
    at = bisect_right(merged, first, key=lambda each: each[0]) - 1
    return at >= 0 and merged[at][1] >= (first if last is None else last)
