"""
Writes the tables of docs/reference/contract-compatibility.md, from the rules.

Owns: the form of those tables. The rest of the page is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from codegen.marked import put_between_marks
from relayrpc.contract.compatibility_rules import RULES, Level
from relayrpc.contract.field_changes import NARROWING, TYPE_GROUPS


__all__ = ["PAGE", "SOURCE", "render"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "contract-compatibility.md"
SOURCE: Final = "relayrpc/contract/compatibility_rules.py"

_RULES: Final = "| rule | level | what breaks | instead |\n|---|---|---|---|\n"
_INTEGERS: Final = """
Integer types that buf lets take each other's place:

| from | at WIRE the relay lets become | and refuses to narrow to |
|---|---|---|
"""


def render(page: str) -> str:
    """Return the page with its tables brought up to date; `page` is its text as it is."""
    rules = "".join(
        f"| `{name}` | {_levels(rule.levels)} | {rule.breaks} | {rule.instead} |\n"
        for name, rule in RULES.items()
    )
    made = f"{_RULES}{rules}{_INTEGERS}{''.join(_integers())}"
    return put_between_marks(page, source=SOURCE, made=made)


def _integers() -> Iterator[str]:
    for group in TYPE_GROUPS[Level.WIRE]:
        for old, narrower in NARROWING.items():
            if old in group:
                let = _codes(group - narrower - {old})
                yield f"| `{old}` | {let} | {_codes(group & narrower)} |\n"


def _levels(levels: frozenset[Level]) -> str:
    return "both" if len(levels) == len(Level) else ", ".join(level.name for level in levels)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "–"
