"""
Which messages have rules, the options of buf.validate in a contract, and what is said of one that
breaks them. Pure; nothing of an extra is needed.

Does not own: checking messages (validation.py).
Source: https://protovalidate.com; buf/validate/validate.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.unknown_fields import UnknownFieldSet


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor


__all__ = ["Refusal", "has_rules"]

# The number of buf.validate's extension of the options of messages, of oneofs and of fields.
_EXTENSION_NUMBER: Final = 1159


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message is refused."""

    status: int
    """gRPC's number."""
    text: str
    details: bytes = b""
    """A serialized google.rpc.Status with the buf.validate.Violations; empty: there are none."""
    is_passing: bool = True
    """False: it is the message itself that a bound does not allow, now or later."""


def has_rules(message: Descriptor) -> bool:
    """Say whether a message, or one that it may hold, has rules; an Any holds nothing here."""
    seen = {message.full_name}
    waiting = [message]
    while waiting:
        each = waiting.pop()
        described: list[Any] = [each, *each.fields, *each.oneofs]
        if any(_has_rule(part.GetOptions()) for part in described if part.has_options):
            return True
        for field in each.fields:
            held = field.message_type
            if held is not None and held.full_name not in seen:
                seen.add(held.full_name)
                waiting.append(held)
    return False


def _has_rule(options: Any) -> bool:
    """Look among what this process knows of the options, and what it does not."""
    known = (field.number for field, _ in options.ListFields())
    unknown: Any = UnknownFieldSet(options)
    return _EXTENSION_NUMBER in (*known, *(field.field_number for field in unknown))
