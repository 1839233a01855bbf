"""
What is refused would break: for each difference of two random versions, a message is found that the
other side misreads, or does not take.

Method: messages with one field set, to each of many values, from both sides, in binary and JSON.
Rules that look ahead, or are about calls, are listed with their reasons.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.contract.compatibility import Difference, Level
from relayrpc.contract.compatibility_rules import RULES
from tests.support.contract_messages import (
    Sides,
    Versions,
    is_map,
    make_message,
    numbers_of,
    read,
    seen_field,
    shared,
    type_of,
    values_of,
)


SEEDS = st.integers(0, 2**32)
# Shown in tests/unit/contract/test_compatibility.py.
_LATER = "nothing breaks before a later version gives the number or name away"
_CALLS = "about calls, not messages"
_NOT_SHOWN = {
    "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED": _LATER,
    "FIELD_NO_DELETE_UNLESS_NAME_RESERVED": _LATER,
    "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED": _LATER,
    "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED": _LATER,
    "RESERVED_MESSAGE_NO_DELETE": _LATER,
    "RESERVED_ENUM_NO_DELETE": _LATER,
    "MESSAGE_SAME_JSON_FORMAT": "JSON goes on working while no two fields have one name",
    "ENUM_SAME_JSON_FORMAT": "JSON goes on working while no two values have one name",
    "RPC_SAME_REQUEST_TYPE": _CALLS,
    "RPC_SAME_RESPONSE_TYPE": _CALLS,
    "RPC_SAME_CLIENT_STREAMING": _CALLS,
    "RPC_SAME_SERVER_STREAMING": _CALLS,
    "RPC_SAME_IDEMPOTENCY_LEVEL": _CALLS,
    "RPC_NO_DELETE": _CALLS,
    "SERVICE_NO_DELETE": _CALLS,
    "FILE_SAME_PACKAGE": "about names: what the file declares is another thing from then on",
}
_VARINTS = {"ENUM", "BOOL", "INT32", "INT64", "UINT32", "UINT64"}


# --- messages of one side ---


def messages_with(pool: DescriptorPool, name: str, number: int) -> Iterator[Message]:
    """Yield messages in which one field is set, to each value that it is tried with."""
    field = numbers_of(pool, name)[number]
    if is_map(field):
        parts = (field.message_type.fields_by_number[part] for part in (1, 2))
        for key, value in itertools.product(*(tried(pool, part) for part in parts)):
            message = make_message(pool, name)
            held = getattr(message, field.name)
            if isinstance(value, Message):
                held[key].CopyFrom(value)
            else:
                held[key] = value
            yield message
        return
    for value in tried(pool, field):
        for count in (1, 2) if field.is_repeated else (1,):
            yield put(make_message(pool, name), field, value, count)


def put(message: Message, field: FieldDescriptor, value: Any, count: int = 1) -> Message:
    if field.is_repeated:
        getattr(message, field.name).extend([value] * count)
    elif isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)
    return message


def tried(pool: DescriptorPool, field: FieldDescriptor) -> list[Any]:
    if field.message_type is None:
        return values_of(field)
    name = field.message_type.full_name
    message = make_message(pool, name)
    for each in numbers_of(pool, name).values():
        if values_of(each):
            put(message, each, values_of(each)[0])
    return [make_message(pool, name), message]


# --- what the other side makes of them ---


def is_misread(sent: Message, number: int, sides: Sides, level: Level) -> bool:
    """Say whether the reader gets another value for a field, or does not take the message."""
    name = sent.DESCRIPTOR.full_name

    def parsed(is_original: bool) -> Message:
        text = json_format.MessageToJson(sent, preserving_proto_field_name=is_original)
        return json_format.Parse(text, make_message(sides[1], name))

    ways: list[Callable[[], Message]] = [
        lambda: read(sent.SerializePartialToString(), name, sides[1])
    ]
    if level is Level.WIRE_JSON:
        ways += [lambda: parsed(True), lambda: parsed(False)]
    for way in ways:
        try:
            got = way()
            if held(sent, number, sides) != held(got, number, sides):
                return True
        except (DecodeError, UnicodeDecodeError, json_format.ParseError):
            return True
    return False


def held(message: Message, number: int, sides: Sides) -> list[Any]:
    """Return the values of a field, whether it takes one or many."""
    value = seen_field(message, message.DESCRIPTOR.fields_by_number[number], sides)
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def required_by_one(versions: Versions, name: str) -> set[int]:
    """Return the fields that one side does not take a message without, and the other one does."""
    missing = [
        {
            number
            for number, field in numbers_of(pool, name).items()
            if field.name in read(b"", name, pool).FindInitializationErrors()
        }
        for pool in (versions.old, versions.new)
    ]
    return missing[0] ^ missing[1]


def place_of(versions: Versions, difference: Difference) -> tuple[str, int]:
    """Return message and number of a field; that of the map, where it is of its entries."""
    field = versions.old.FindFieldByName(difference.what)
    entry = field.containing_type
    if not entry.GetOptions().map_entry:
        return entry.full_name, field.number
    outer = entry.containing_type
    (number,) = (each.number for each in outer.fields if each.message_type is entry)
    return outer.full_name, number


# --- a message for each rule ---


def breaks_field(versions: Versions, difference: Difference, level: Level) -> bool:
    name, number = place_of(versions, difference)
    return number in required_by_one(versions, name) or any(
        is_misread(sent, number, sides, level)
        for sides in versions.directions()
        for sent in messages_with(sides[0], name, number)
    )


def breaks_type(versions: Versions, difference: Difference, level: Level) -> bool:
    if breaks_field(versions, difference, level):
        return True
    old = versions.old.FindFieldByName(difference.what)
    new = numbers_of(versions.new, old.containing_type.full_name)[old.number]
    types = {type_of(old), type_of(new)}
    # Messages, and enums in binary, are compared by name; enums and integers never are the same.
    if types <= {"MESSAGE"} or types <= {"GROUP"}:
        return True
    return level is Level.WIRE and "ENUM" in types and types <= _VARINTS


def breaks_default(versions: Versions, difference: Difference, level: Level) -> bool:
    name, number = place_of(versions, difference)
    return is_misread(make_message(versions.old, name), number, (versions.old, versions.new), level)


def breaks_oneof(versions: Versions, difference: Difference, level: Level) -> bool:
    """Set the field together with each other one of its oneof, where the writer lets it."""
    name, number = place_of(versions, difference)
    for sides in versions.directions():
        for other in companions(sides[1], name, number) & set(shared(*sides, name)):
            field = numbers_of(sides[0], name)[other]
            if is_map(field):
                continue
            pairs = itertools.product(
                messages_with(sides[0], name, number), tried(sides[0], field)
            )
            for sent, value in pairs:
                put(sent, field, value)
                if any(is_misread(sent, each, sides, level) for each in (number, other)):
                    return True
    # A oneof of one field that stays costs nothing, before it gets another one.
    known = set(shared(versions.old, versions.new, name))
    before, after = (companions(pool, name, number) for pool in (versions.old, versions.new))
    return before & known == after & known


def companions(pool: DescriptorPool, name: str, number: int) -> set[int]:
    """Return the other fields of a field's oneof."""
    oneof = numbers_of(pool, name)[number].containing_oneof
    return {field.number for field in oneof.fields} - {number} if oneof else set()


def breaks_requirement(versions: Versions, difference: Difference, level: Level) -> bool:
    # Proto2 and 2023 write it in two ways, which buf takes for different things.
    return bool(required_by_one(versions, difference.what)) or set(versions.syntaxes) == {
        "proto2",
        "2023",
    }


def breaks_enum(versions: Versions, difference: Difference, level: Level) -> bool:
    enum = versions.old.FindEnumTypeByName(difference.what)
    field = f"in{enum.name}"
    for value in enum.values:
        text = json.dumps({field: [value.name]})
        try:
            got = json_format.Parse(text, make_message(versions.new, "p.Holder"))
        except json_format.ParseError:
            return True
        if list(getattr(got, field)) != [value.number]:
            return True
    return False


_SHOWN: dict[str, Callable[[Versions, Difference, Level], bool]] = {
    "FIELD_WIRE_JSON_COMPATIBLE_TYPE": breaks_type,
    "FIELD_WIRE_COMPATIBLE_TYPE": breaks_type,
    "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY": breaks_field,
    "FIELD_WIRE_COMPATIBLE_CARDINALITY": breaks_field,
    "FIELD_NO_NARROWING": breaks_field,
    "FIELD_SAME_NAME": breaks_field,
    "FIELD_SAME_JSON_NAME": breaks_field,
    "FIELD_SAME_DEFAULT": breaks_default,
    "FIELD_SAME_ONEOF": breaks_oneof,
    "MESSAGE_SAME_REQUIRED_FIELDS": breaks_requirement,
    "ENUM_VALUE_SAME_NAME": breaks_enum,
}


def test_every_rule_is_shown_or_says_why_not() -> None:
    assert _SHOWN.keys() | _NOT_SHOWN.keys() == RULES.keys()
    assert not _SHOWN.keys() & _NOT_SHOWN.keys()


def check_that_differences_break(level: Level, seed: int) -> set[str]:
    """Return the rules that were shown."""
    versions = Versions(random.Random(seed))
    differences = [each for each in versions.differences(level) if each.rule in _SHOWN]
    for difference in differences:
        assert _SHOWN[difference.rule](versions, difference, level), difference
    return {difference.rule for difference in differences}


@settings(max_examples=40)
@pytest.mark.parametrize("level", Level)
@given(seed=SEEDS)
def test_refused_versions_have_a_message_that_breaks(level: Level, seed: int) -> None:
    check_that_differences_break(level, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", Level)
def test_many_refused_versions_have_a_message_that_breaks(level: Level) -> None:
    shown = set().union(*(check_that_differences_break(level, seed) for seed in range(3_000)))
    assert shown == {name for name in _SHOWN if level in RULES[name].levels}
