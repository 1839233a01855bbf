"""
What holds at an address. Goal: of each rule the longest path that says something of it counts.
Method: a handful of entries.
"""

from __future__ import annotations

import pytest

from relayrpc.hub.addresses import AddressEntry, AddressRules, Compatibility, rules_at


NONE, WIRE, WIRE_JSON = Compatibility.NONE, Compatibility.WIRE, Compatibility.WIRE_JSON
ENTRIES = {
    "contoso": AddressEntry(validate=True),
    "contoso/orders": AddressEntry(compatibility=WIRE),
    "contoso/orders/old": AddressEntry(compatibility=NONE, validate=False),
}


def test_without_entries_the_defaults_hold() -> None:
    assert rules_at({}, "contoso/orders") == AddressRules(compatibility=WIRE_JSON, validate=False)


@pytest.mark.parametrize(
    ("address", "compatibility", "is_validated"),
    [
        ("contoso", WIRE_JSON, True),
        ("contoso/orders", WIRE, True),
        ("contoso/orders/new/eu", WIRE, True),
        ("contoso/orders/old", NONE, False),
        ("contoso/ordersold", WIRE_JSON, True),
        ("contosoorders", WIRE_JSON, False),
        ("orders", WIRE_JSON, False),
        ("", WIRE_JSON, False),
    ],
)
def test_longest_path_counts_of_each_rule(
    address: str, compatibility: Compatibility, is_validated: bool
) -> None:
    rules = rules_at(ENTRIES, address)
    assert rules == AddressRules(compatibility=compatibility, validate=is_validated)


def test_entry_of_no_address_is_above_all() -> None:
    entries = {**ENTRIES, "": AddressEntry(compatibility=NONE, validate=True)}
    assert rules_at(entries, "a/b") == AddressRules(compatibility=NONE, validate=True)
    assert rules_at(entries, "contoso/orders").compatibility is WIRE
    assert not rules_at(entries, "contoso/orders/old").validate
