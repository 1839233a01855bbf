"""Addresses where hosts listen. Goal: one form. Method: paths of all kinds."""

from __future__ import annotations

import pytest

from relayrpc.contract.address import check_address


@pytest.mark.parametrize(
    "address",
    ["", "a", "a/b", "contoso/billing/greeter", "A-1._~/z", "x" * 512],
)
def test_address_is_a_path(address: str) -> None:
    assert check_address(address) == ""


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/a", "is no path"),
        ("a/", "is no path"),
        ("a//b", "is no path"),
        ("a b", "is no path"),
        ("a\n", "is no path"),
        ("ä", "is no path"),
        ("x" * 513, "is no path"),
        ("$hub", "is reserved"),
        ("$hub/x", "is reserved"),
    ],
)
def test_other_addresses_are_refused(address: str, says: str) -> None:
    fault = check_address(address)
    assert says in fault
    assert len(fault) < 300


def test_only_the_hubs_own_host_has_the_reserved_addresses() -> None:
    assert check_address("$hub", is_local=True) == ""
    assert "is reserved" in check_address("$hub")
    assert check_address("$", is_local=True)
