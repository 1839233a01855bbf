"""
What a file says of addresses: its [addresses."contoso/orders"] tables.

Owns: reading them, and a sentence for each mistake. Does not own: what the settings mean
(hub/addresses.py).
Source: docs/reference/configuration.md "Addresses".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from relayrpc.cli.toml_file import ADDRESSES_TABLE
from relayrpc.hub.addresses import AddressEntry, Compatibility


__all__ = ["read_addresses"]

_HINT: Final = f'write [{ADDRESSES_TABLE}."contoso/orders"], once for each address'
_NAMES: Final = tuple(field.name for field in fields(AddressEntry))
_LEVELS: Final = tuple(level.value for level in Compatibility)


def read_addresses(
    tables: object,
) -> tuple[dict[str, AddressEntry], list[tuple[str, str]]]:
    """
    Make entries of what stands below `addresses` in a file.

    Returns:
        The entries, by address, without what cannot be used; dotted name and sentence of each thing
        that cannot.
    """
    if not isinstance(tables, dict):
        return {}, [(ADDRESSES_TABLE, f"{ADDRESSES_TABLE} is no table: {_HINT}")]
    entries: dict[str, AddressEntry] = {}
    problems: list[tuple[str, str]] = []
    for address, table in tables.items():
        place = f"{ADDRESSES_TABLE}.{address}"
        if not isinstance(table, dict):
            problems.append((place, f"{place} is no table: {_HINT}"))
            continue
        wrong = dict(_problems(table))
        problems += [(f"{place}.{name}", f"{place}.{name} {text}") for name, text in wrong.items()]
        entries[address] = _entry({name: table[name] for name in table if name not in wrong})
    return entries, problems


def _problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key of each setting that cannot be used, and why not."""
    for name, value in table.items():
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, n=1)
            yield name, "is no setting" + (f"; did you mean {near[0]}?" if near else "")
        elif name == "compatibility" and value not in _LEVELS:
            yield name, f"is {value!r:.60}, and must be {' or '.join(_LEVELS)}"
        elif name == "validate" and not isinstance(value, bool):
            yield name, f"is {value!r:.60}, and must be true or false"


def _entry(values: dict[str, Any]) -> AddressEntry:
    level = values.pop("compatibility", None)
    return AddressEntry(compatibility=level and Compatibility(level), **values)
