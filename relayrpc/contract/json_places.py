"""
What the values of a JSON text stand for in a message. Pure.

A place is what one value stands for. It knows the places within, says in words what belongs there,
and finds what json_format takes though protobuf's mapping has no room for it.
Owns: that. Does not own: the mapping itself, which is json_format's (json.py).
Source: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor

from relayrpc.contract.json_text import Key, items_of, shown


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool


__all__ = ["Place", "Places", "misread", "unknown"]

_ENUM_NAMES_SHOWN_MAX: Final = 10
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_KEY: Final = re.compile(r"-?[0-9]{1,20}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NOT_FINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})
# Both alphabets are the mapping's, with padding and without.
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
# What is less is rounded to the largest float.
_FLOAT_BOUND: Final = 3.4028235677973366e38

_ANY: Final = "google.protobuf.Any"
_FREE: Final = frozenset(f"google.protobuf.{name}" for name in ("ListValue", "Struct", "Value"))
_STRINGS: Final = frozenset(
    f"google.protobuf.{name}" for name in ("Duration", "FieldMask", "Timestamp")
)
_WRAPPERS: Final = "google/protobuf/wrappers.proto"
_TYPE: Final = "@type"
_VALUE: Final = "value"

_TYPE_NAMES: Final = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "base64",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FIXED32: "fixed32",
    FieldDescriptor.TYPE_FIXED64: "fixed64",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SFIXED32: "sfixed32",
    FieldDescriptor.TYPE_SFIXED64: "sfixed64",
    FieldDescriptor.TYPE_SINT32: "sint32",
    FieldDescriptor.TYPE_SINT64: "sint64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}
_RANGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS: Final = frozenset({FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT})
_TEXTS: Final = frozenset({FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_STRING})


class Place:
    """What a value stands for; one that is just this has none within."""

    __slots__ = ("wanted",)

    def __init__(self, wanted: str) -> None:
        """
        Args:
            wanted: What belongs there, to be read behind "no": "int32", "samples.Order".
        """
        self.wanted = wanted

    def member(self, key: Key, value: Any) -> Place | None:
        """
        Go to a value within.

        Args:
            key: Its name or index.
            value: The value itself.

        Returns:
            None: there is no place for one of that name.
        """
        return None

    def fault(self, members: Mapping[str, Any]) -> str | None:
        """Say why an object cannot have its members, whatever their values; None: it can."""
        return None

    def can_be(self, value: Any) -> bool:
        """Say whether a value that json_format took belongs there, those within apart."""
        return True


class Places:
    """Makes the places of a text, those that all messages of a type share once."""

    __slots__ = ("_shared", "pool")

    def __init__(self, pool: DescriptorPool) -> None:
        """
        Args:
            pool: Where the types are found that an Any names, and extensions.
        """
        self.pool = pool
        # By the full name of a message or field.
        self._shared: dict[str, Place] = {}

    def of(self, message: Descriptor, value: Any) -> Place:
        """
        Return the place of a message.

        Args:
            message: Its type.
            value: The JSON that stands for it.
        """
        name = message.full_name
        if name == _ANY:
            return _AnyPlace(value, self)
        if name not in self._shared:
            self._shared[name] = self._make(message)
        return self._shared[name]

    def of_one(self, field: FieldDescriptor, value: Any) -> Place:
        """Return the place of one value of a field."""
        if field.message_type is not None:
            return self.of(field.message_type, value)
        name = field.full_name
        if name not in self._shared:
            self._shared[name] = _ScalarPlace(field)
        return self._shared[name]

    def _make(self, message: Descriptor) -> Place:
        if message.full_name in _FREE:
            return _FreePlace(message.full_name)
        if message.full_name in _STRINGS:
            return Place(message.full_name)
        if message.file.name == _WRAPPERS:
            return _ScalarPlace(message.fields_by_name[_VALUE])
        return _MessagePlace(message, self)


def misread(place: Place, value: Any) -> tuple[list[Key], str] | None:
    """
    Find what json_format took and the mapping does not.

    Args:
        place: What the whole stands for.
        value: The whole, which json_format took.

    Returns:
        The way to a value and what is wrong with it, or None.
    """
    if not place.can_be(value):
        return [], f"{shown(value)} is no {place.wanted}"
    if isinstance(value, dict) and (fault := place.fault(value)):
        return [], fault
    for key, inner in items_of(value):
        within = place.member(key, inner)
        if within is None:
            return [], unknown(place, key)
        if inner is not None and (found := misread(within, inner)):
            found[0].insert(0, key)
            return found
    return None


def unknown(place: Place, key: Key) -> str:
    """Say that a member has no place."""
    return f"{place.wanted} has no field {shown(key)}"


class _TypePlace(Place):
    """The name of the type that an Any holds."""

    __slots__ = ()


class _FreePlace(Place):
    """Any JSON."""

    __slots__ = ()

    def member(self, key: Key, value: Any) -> Place | None:
        return self

    def can_be(self, value: Any) -> bool:
        return not isinstance(value, float) or math.isfinite(value)


class _MessagePlace(Place):
    """An object whose members are fields."""

    __slots__ = ("_fields", "_members", "_places")

    def __init__(self, message: Descriptor, places: Places) -> None:
        super().__init__(message.full_name)
        self._fields = {name: field for field in message.fields for name in _names(field)}
        self._places = places
        # By name; those of an Any are of its value.
        self._members: dict[Key, Place] = {}

    def member(self, key: Key, value: Any) -> Place | None:
        known = self._members.get(key)
        if known is not None:
            return known
        field = self._field(key)
        if field is None:
            return None
        held = field.message_type
        place: Place
        if held is not None and held.GetOptions().map_entry:
            place = _MapPlace(held, self._places)
        elif field.is_repeated:
            place = _ListPlace(field, self._places)
        else:
            place = self._places.of_one(field, value)
        if not isinstance(place, _AnyPlace):
            self._members[key] = place
        return place

    def fault(self, members: Mapping[str, Any]) -> str | None:
        taken: dict[str, str] = {}
        for name, value in members.items():
            field = self._field(name)
            if field is not None and value is not None:
                what = (field.containing_oneof or field).full_name
                if what in taken:
                    return f"{shown(taken[what])} and {shown(name)} exclude each other"
                taken[what] = name
        return None

    def can_be(self, value: Any) -> bool:
        return isinstance(value, dict)

    def _field(self, name: Key) -> FieldDescriptor | None:
        field = self._fields.get(str(name))
        if field is None and str(name).startswith("["):
            try:
                field = self._places.pool.FindExtensionByName(str(name)[1:-1])
            except (KeyError, TypeError):
                field = None
        return field


class _ListPlace(Place):
    """A list of one field's values."""

    __slots__ = ("_field", "_places")

    def __init__(self, field: FieldDescriptor, places: Places) -> None:
        super().__init__("list")
        self._field = field
        self._places = places

    def member(self, key: Key, value: Any) -> Place | None:
        return self._places.of_one(self._field, value)


class _MapPlace(Place):
    """An object whose members are a map's."""

    __slots__ = ("_key", "_places", "_value")

    def __init__(self, entry: Descriptor, places: Places) -> None:
        super().__init__("object")
        self._key = entry.fields_by_name["key"]
        self._value = entry.fields_by_name[_VALUE]
        self._places = places

    def member(self, key: Key, value: Any) -> Place | None:
        return self._places.of_one(self._value, value)

    def fault(self, members: Mapping[str, Any]) -> str | None:
        for name in members:
            if not _is_key(self._key, name):
                return f"the key {shown(name)} is no {_TYPE_NAMES[self._key.type]}"
        return None


class _AnyPlace(Place):
    """A message with its type, as members of its own or, where it has none, one named "value"."""

    __slots__ = ("_held", "_members", "_places")

    def __init__(self, value: Any, places: Places) -> None:
        super().__init__(_ANY)
        self._places = places
        self._held: Descriptor | None = None
        self._members: _MessagePlace | None = None
        name: Any = value.get(_TYPE) if isinstance(value, dict) else None
        with suppress(AttributeError, KeyError, TypeError):
            self._held = held = places.pool.FindMessageTypeByName(name.rpartition("/")[2])
            # An Any within it counts as none here: nobody knows yet how many there are.
            inner = places.of(held, None)
            if isinstance(inner, _MessagePlace):
                self.wanted, self._members = held.full_name, inner

    def member(self, key: Key, value: Any) -> Place | None:
        if key == _TYPE:
            return _TypePlace("type that the contract knows")
        if self._members is not None:
            return self._members.member(key, value)
        return self._places.of(self._held, value) if self._held and key == _VALUE else None

    def fault(self, members: Mapping[str, Any]) -> str | None:
        return self._members.fault(members) if self._members is not None else None


class _ScalarPlace(Place):
    """One value of a field that holds no messages."""

    __slots__ = ("_field",)

    def __init__(self, field: FieldDescriptor) -> None:
        super().__init__(_TYPE_NAMES.get(field.type, ""))
        self._field = field
        if field.enum_type is not None:
            names = [value.name for value in field.enum_type.values]
            if len(names) > _ENUM_NAMES_SHOWN_MAX:
                names[_ENUM_NAMES_SHOWN_MAX:] = ["..."]
            self.wanted = f"{field.enum_type.full_name} ({', '.join(names)})"

    def can_be(self, value: Any) -> bool:
        kind = self._field.type
        if kind in _TEXTS:
            return True
        if kind == FieldDescriptor.TYPE_BYTES:
            return _BASE64.fullmatch(value) is not None
        if isinstance(value, bool):
            return False
        if kind == FieldDescriptor.TYPE_ENUM:
            return not isinstance(value, float) or value.is_integer()
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            return kind in _FLOATS and value in _NOT_FINITE
        if kind not in _FLOATS:
            return True
        bound = _FLOAT_BOUND if kind == FieldDescriptor.TYPE_FLOAT else math.inf
        return abs(float(value)) < bound


def _is_key(field: FieldDescriptor, name: str) -> bool:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _SURROGATE.search(name) is None
    if field.type == FieldDescriptor.TYPE_BOOL:
        return name in ("true", "false")
    low, high = _RANGES[field.cpp_type]
    return _KEY.fullmatch(name) is not None and low <= int(name) <= high


def _names(field: FieldDescriptor) -> tuple[str, str]:
    return field.json_name, field.name
