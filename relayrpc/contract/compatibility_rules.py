"""
The rules by which two versions of a contract are compatible: their names, levels and reasons. Pure.

All but the last three are of `buf breaking`, with its names, in its categories WIRE_JSON and WIRE.
Owns: which rules there are. Does not own: when one is broken (field_changes.py, type_changes.py).
Source: `buf config ls-breaking-rules --version v2`; tests/conformance/compatibility compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


__all__ = ["RULES", "Level", "Rule"]


class Level(StrEnum):
    """What has to go on working."""

    WIRE_JSON = "wire_json"
    """The binary form and JSON."""
    WIRE = "wire"
    """The binary form."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a version must not do, and why."""

    levels: frozenset[Level]
    breaks: str
    """What goes wrong."""
    instead: str
    """What to do instead."""


_BOTH: Final = frozenset(Level)
_JSON: Final = frozenset({Level.WIRE_JSON})
_WIRE: Final = frozenset({Level.WIRE})

_OTHER_TYPE: Final = "add a field with another number, and keep this one for those who use it"
_OTHER_METHOD: Final = "add another method, and keep this one for those who call it"

RULES: Final[dict[str, Rule]] = {
    "FIELD_WIRE_JSON_COMPATIBLE_TYPE": Rule(
        _JSON, "the value is misread or refused, in binary or in JSON", _OTHER_TYPE
    ),
    "FIELD_WIRE_COMPATIBLE_TYPE": Rule(_WIRE, "the value is misread or refused", _OTHER_TYPE),
    "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY": Rule(
        _JSON,
        "of many values one is kept, a required one is missing, or JSON has another form",
        _OTHER_TYPE,
    ),
    "FIELD_WIRE_COMPATIBLE_CARDINALITY": Rule(
        _WIRE, "of many values one is kept, or a required one is missing", _OTHER_TYPE
    ),
    "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED": Rule(
        _BOTH,
        "the number may be given to another field, which then reads what was meant for this one",
        "`reserved` with the number",
    ),
    "FIELD_NO_DELETE_UNLESS_NAME_RESERVED": Rule(
        _JSON,
        "the name may be given to another field, which then reads this one's JSON",
        "`reserved` with the name, beside the number",
    ),
    "FIELD_SAME_NAME": Rule(
        _JSON, "JSON with the old name is refused", "keep the name, or add another field"
    ),
    "FIELD_SAME_JSON_NAME": Rule(
        _JSON, "JSON with the old name is refused", "`json_name` with the old one"
    ),
    "FIELD_SAME_ONEOF": Rule(
        _BOTH,
        "what was set together is lost, as a oneof keeps one of its fields",
        "leave fields where they are; a new oneof takes new fields",
    ),
    "FIELD_SAME_DEFAULT": Rule(
        _BOTH,
        "one side reads another value where the other one left it out",
        "keep the default, and an enum's first value; add a field that has another one",
    ),
    "MESSAGE_SAME_REQUIRED_FIELDS": Rule(
        _BOTH,
        "whoever requires the field refuses messages of those who do not know it",
        "add fields that are not required, and keep those that are",
    ),
    "MESSAGE_SAME_JSON_FORMAT": Rule(
        _JSON, "nothing checks any more that JSON is unambiguous", "keep `json_format = ALLOW`"
    ),
    "RESERVED_MESSAGE_NO_DELETE": Rule(
        _BOTH,
        "a number or name that old messages use may be given to another field",
        "keep what is reserved",
    ),
    "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED": Rule(
        _BOTH,
        "the number may be given to another value, which is then read for this one",
        "`reserved` with the number",
    ),
    "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED": Rule(
        _JSON,
        "JSON with the name is refused, or means another number later",
        "`reserved` with the name, beside the number",
    ),
    "ENUM_VALUE_SAME_NAME": Rule(
        _JSON,
        "JSON with the old name is refused",
        "keep the name; with `allow_alias` a second one may stand beside it",
    ),
    "ENUM_SAME_JSON_FORMAT": Rule(
        _JSON, "nothing checks any more that JSON is unambiguous", "keep `json_format = ALLOW`"
    ),
    "RESERVED_ENUM_NO_DELETE": Rule(
        _BOTH,
        "a number or name that old messages use may be given to another value",
        "keep what is reserved",
    ),
    "RPC_SAME_REQUEST_TYPE": Rule(_BOTH, "the host reads another message", _OTHER_METHOD),
    "RPC_SAME_RESPONSE_TYPE": Rule(_BOTH, "callers read another message", _OTHER_METHOD),
    "RPC_SAME_CLIENT_STREAMING": Rule(_BOTH, "calls have another shape", _OTHER_METHOD),
    "RPC_SAME_SERVER_STREAMING": Rule(_BOTH, "calls have another shape", _OTHER_METHOD),
    "RPC_SAME_IDEMPOTENCY_LEVEL": Rule(
        _BOTH,
        "callers make calls again that must not run twice, or do not where they could",
        _OTHER_METHOD,
    ),
    "FILE_SAME_PACKAGE": Rule(
        _BOTH,
        "all that the file declares has other names, services too",
        "put the new package into a file of its own",
    ),
    "FIELD_NO_NARROWING": Rule(
        _BOTH, "numbers that the new type cannot hold are read as others", _OTHER_TYPE
    ),
    "RPC_NO_DELETE": Rule(
        _BOTH, "calls end with UNIMPLEMENTED", "keep the method, marked `deprecated`"
    ),
    "SERVICE_NO_DELETE": Rule(
        _BOTH, "calls end with UNIMPLEMENTED", "serve the old service beside the new one"
    ),
}
"""By name: buf's where buf has it."""
