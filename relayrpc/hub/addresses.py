"""
What holds at addresses, as an operator has said it. Pure.

Owns: the entries, and which of them counts at an address. Does not own: where they are read from
(cli/addresses.py), what follows from them.
Source: docs/reference/configuration.md "Addresses".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from relayrpc.contract.address import check_address
from relayrpc.limits import SettingProblem


__all__ = ["AddressEntry", "AddressRules", "Compatibility", "address_problems", "rules_at"]


class Compatibility(StrEnum):
    """What has to go on working for those who hold an older version of a contract."""

    WIRE_JSON = "wire_json"
    """Binary messages and JSON."""
    WIRE = "wire"
    """Binary messages."""
    NONE = "none"
    """Versions are not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressEntry:
    """What is said of an address and those below it; None: nothing."""

    compatibility: Compatibility | None = None
    """What has to go on working when a host brings another version of a contract."""
    validate: bool | None = None
    """The hub checks requests by the rules in their contract, and refuses those that break them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """What holds at one address."""

    compatibility: Compatibility = Compatibility.WIRE_JSON
    validate: bool = False


_NAMES: Final = tuple(field.name for field in fields(AddressEntry))


def rules_at(entries: Mapping[str, AddressEntry], address: str) -> AddressRules:
    """
    Return what holds at an address: of each rule, what the entry with the longest path says that
    says something of it.

    Args:
        entries: By address; "" is above all.
        address: Where hosts listen.
    """
    found: dict[str, object] = {}
    for path in _paths(address):
        entry = entries.get(path)
        if entry is not None:
            said = {name: getattr(entry, name) for name in _NAMES}
            found = {name: value for name, value in said.items() if value is not None} | found
    return AddressRules(**found)  # type: ignore[arg-type]  # fields of the same names


def address_problems(entries: Mapping[str, AddressEntry]) -> Iterator[SettingProblem]:
    """Say which entries are for no address that hosts can have."""
    for address in entries:
        fault = check_address(address)
        if fault:
            yield SettingProblem(f"addresses.{address}", f"cannot be used: {fault}")


def _paths(address: str) -> Iterator[str]:
    """Yield an address and the paths above it, longest first."""
    while address:
        yield address
        address = address.rpartition("/")[0]
    yield ""
