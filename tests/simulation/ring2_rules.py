"""
Rules for the second ring: those of the greeter's requests, which all of them keep to.

What a hub of the second ring checks calls by; so every promise is kept with checking on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import protovalidate
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.contract.descriptors import DescriptorSet
from relayrpc.contract.validation import Validator
from relayrpc.hub.checks import RequestChecks
from relayrpc.hub.rule_books import RuleBooks
from relayrpc.limits import Limits
from samples.greeter import greeter_pb2
from tests.simulation.ring2_calls import ADDRESS_PLAIN
from tests.support.contracts import make_set


__all__ = ["make_checks"]

# (buf.validate.field).string.min_len = 1
_NOT_EMPTY: Final = bytes.fromhex("ba480472021001")
_RULED: Final = {"HelloRequest": "name", "ListGreetingsRequest": "name", "ChatLine": "text"}


def _make_set() -> bytes:
    """Describe the greeter with a rule for each of its requests."""
    rules = FileDescriptorProto.FromString(
        protovalidate.ViolationsPb.desc().file.proto.to_binary()
    )
    file = FileDescriptorProto()
    greeter_pb2.DESCRIPTOR.CopyToProto(file)
    file.dependency.append(rules.name)
    for message in file.message_type:
        for field in message.field:
            if _RULED.get(message.name) == field.name:
                field.options.MergeFromString(_NOT_EMPTY)
    return make_set(rules, file)


_SET: Final = _make_set()


def make_checks(
    limits: Limits, descriptors: Callable[[bytes], DescriptorSet | None]
) -> RequestChecks:
    """
    Make what checks the calls to one of the two addresses.

    Args:
        limits: Of the hub.
        descriptors: What the hub knows, by fingerprint.
    """

    def with_rules(fingerprint: bytes) -> DescriptorSet | None:
        if descriptors(fingerprint) is None:
            return None
        found = DescriptorSet(_SET)
        for _ in found.check(limits):
            pass
        return found

    books = RuleBooks(
        descriptors=with_rules,
        validator=Validator(limits),
        bytes_max=limits.checked_contracts_bytes_max,
    )
    return RequestChecks(
        is_checked=lambda address: address == ADDRESS_PLAIN, books=books, limits=limits
    )
