"""
What compatible versions promise: what is accepted is read on both sides without loss.

Method: contracts and later versions at random; messages of either are read as the other one, in
binary and JSON. What is refused: test_incompatibility.py.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.contract.compatibility import Level
from tests.support.contract_messages import (
    INTEGERS,
    NAMES,
    Sides,
    Versions,
    drawn,
    is_map,
    make_message,
    names_of,
    numbers_of,
    read,
    required,
    seen,
    shared,
    type_of,
    values_of,
)


SEEDS = st.integers(0, 2**32)


def is_known_to(value: Any, writer: FieldDescriptor, reader: FieldDescriptor) -> bool:
    """Say whether both sides have a value, with the same names if it is an enum's."""
    if type_of(writer) == "ENUM":
        return reader.enum_type is not None and (
            names_of(writer, value) == names_of(reader, value) != set()
        )
    return True


def could_be_said(value: Any, field: FieldDescriptor) -> bool:
    """Say whether a field of the old version could have a value of the new one."""
    if type_of(field) == "STRING":
        return value != b"\xff"
    low, high = INTEGERS.get(type_of(field), (-math.inf, math.inf))
    return not isinstance(value, int) or low <= value <= high


class Writer:
    """
    Makes messages for the other side.

    Hosts of the new version have to take all that callers of the old one may send, but for what
    was deleted. In return they do not say what those callers could not have said themselves.
    """

    def __init__(
        self,
        rng: random.Random,
        sides: Sides,
        *,
        is_new: bool,
    ) -> None:
        self._rng = rng
        self._sides = sides
        self._is_new = is_new

    def write(self, name: str, depth: int = 0) -> Message:
        writer, reader = self._sides
        message = make_message(writer, name)
        for number in shared(writer, reader, name):
            field, other = numbers_of(writer, name)[number], numbers_of(reader, name)[number]
            # What is required has to be there; if that never ends, the message is left unfinished.
            if depth < 4 and (field.is_required or (self._rng.random() < 0.8 and depth < 2)):
                self._set(message, field, other, depth)
        return message

    def _set(
        self, message: Message, field: FieldDescriptor, other: FieldDescriptor, depth: int
    ) -> None:
        count = self._rng.randint(1, 3) if field.is_repeated else 1
        for _ in range(count):
            if is_map(field):
                self._put_entry(message, field, other, depth)
                continue
            value = self._value(field, other, depth)
            if value is None:
                continue
            if field.is_repeated:
                getattr(message, field.name).append(value)
            elif isinstance(value, Message):
                getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, value)

    def _put_entry(
        self, message: Message, field: FieldDescriptor, other: FieldDescriptor, depth: int
    ) -> None:
        ours, theirs = field.message_type.fields_by_number, other.message_type.fields_by_number
        key, value = (self._value(ours[number], theirs[number], depth) for number in (1, 2))
        if key is None or value is None:
            return
        if isinstance(value, Message):
            getattr(message, field.name)[key].CopyFrom(value)
        else:
            getattr(message, field.name)[key] = value

    def _value(self, field: FieldDescriptor, other: FieldDescriptor, depth: int) -> Any:
        """Return a value that both fields can have; None: there is none."""
        if field.message_type is not None:
            return self.write(field.message_type.full_name, depth + 1)
        known = [value for value in values_of(field) if is_known_to(value, field, other)]
        if self._is_new:
            known = [value for value in known if could_be_said(value, other)]
        return self._rng.choice(known) if known else None


def is_accepted(versions: Versions, level: Level) -> bool:
    # Required fields of 2023 that come or go are what buf lets pass.
    return not versions.differences(level) and all(
        required(versions.old, name) == required(versions.new, name) for name in NAMES
    )


def check_that_they_read_each_other(level: Level, seed: int) -> None:
    rng = random.Random(seed)
    versions = next(each for each in drawn(rng) if is_accepted(each, level))
    for sides in versions.directions():
        writer, reader = sides
        for name in NAMES:
            sent = Writer(rng, sides, is_new=writer is versions.new).write(name)
            if not sent.IsInitialized():
                continue
            got = read(sent.SerializeToString(), name, reader)
            assert got.IsInitialized()
            assert seen(got, sides) == seen(sent, sides)
            back = read(got.SerializeToString(), name, writer)
            assert seen(back, sides) == seen(sent, sides)
            if level is Level.WIRE_JSON:
                for is_original in (True, False):
                    text = json_format.MessageToJson(sent, preserving_proto_field_name=is_original)
                    got = json_format.Parse(text, type(got)())
                    assert seen(got, sides) == seen(sent, sides)


@settings(max_examples=40)
@pytest.mark.parametrize("level", Level)
@given(seed=SEEDS)
def test_accepted_versions_read_each_other(level: Level, seed: int) -> None:
    """Whatever both versions can say arrives, in both directions, and comes back."""
    check_that_they_read_each_other(level, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", Level)
def test_many_accepted_versions_read_each_other(level: Level) -> None:
    for seed in range(1_000):
        check_that_they_read_each_other(level, seed)
