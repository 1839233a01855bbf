"""
Flags that set something which may also stand in a file or in the environment.

Owns: what such a flag is to config.py, and how --limit is read and completed. Imports nothing that
takes long: every command loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from relayrpc.limits import Limits


__all__ = ["Flag", "complete_limit", "limit_flags"]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that was given."""

    name: str
    """As it is written: "--keepalive", "--limit links_max"."""
    value: object


def limit_flags(texts: Iterable[str]) -> dict[str, Flag]:
    """Read what --limit was given: "links_max=500" sets "limits.links_max"; the last one wins."""
    pairs = [text.partition("=") for text in texts]
    return {f"limits.{name}": Flag(f"--limit {name}", value) for name, _, value in pairs}


def complete_limit(incomplete: str) -> list[str]:
    """Return what may follow --limit."""
    return [f"{field.name}=" for field in fields(Limits) if field.name.startswith(incomplete)]
