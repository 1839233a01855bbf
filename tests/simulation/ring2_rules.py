"""
Rules for the second ring: those of the greeter's requests, which all of them keep to.

What a hub of the second ring checks calls by; so every promise is kept with checking on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.ruled_greeter import ruled_greeter
from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.contract.validation import Validator
from relayrpc.hub.checks import RequestChecks
from relayrpc.hub.rule_books import RuleBooks
from relayrpc.limits import Limits
from tests.simulation.ring2_calls import ADDRESS_PLAIN
from tests.support.contracts import make_set


__all__ = ["make_checks"]

_SET: Final = make_set(*ruled_greeter())


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
        return checked(_SET, limits)

    books = RuleBooks(
        descriptors=with_rules,
        validator=Validator(limits),
        bytes_max=limits.checked_contracts_bytes_max,
    )
    return RequestChecks(
        is_checked=lambda address: address == ADDRESS_PLAIN, books=books, limits=limits
    )
