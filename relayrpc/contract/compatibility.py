"""
Whether a new version of a contract can take the place of one that callers hold. Pure.

The verdicts are those of `buf breaking`, in its categories WIRE_JSON and WIRE, and two more: no
integer type is narrowed, and no method is lost.
Owns: what is compared with what, in steps and within a bound. Does not own: what counts as a
difference (compatibility_rules.py, field_changes.py, type_changes.py).
Source: docs/reference/contract-compatibility.md; tests/conformance/compatibility.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relayrpc.contract.compatibility_rules import RULES, Level
from relayrpc.contract.elements import Elements
from relayrpc.contract.field_changes import Change, field_changes, shown
from relayrpc.contract.type_changes import enum_changes, message_changes, service_changes


if TYPE_CHECKING:
    from relayrpc.contract.descriptors import DescriptorSet
    from relayrpc.limits import Limits


__all__ = ["Comparison", "Difference", "Level", "compare"]

# Elements (fields, values, methods) that are looked at in one step.
_STEP_ELEMENTS: Final = 128


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that breaks those who hold the old version."""

    rule: str
    """A name of compatibility_rules.RULES, which also says what to do instead."""
    what: str
    """
    Full name of the element, in the old version: "pkg.Message.field", "pkg.Service" ... Cut, as in
    the text, where it is longer than 200 characters.
    """
    file: str
    """Where it stands: a file of the new version, or of the old one where that lacks it."""
    text: str
    """What changed, as a sentence without its full stop, the element named in it."""

    def __str__(self) -> str:
        return f"{self.file}: {self.text} [{self.rule}]"


class Comparison:
    """
    One comparison of two versions.

    Attributes:
        differences: What breaks, the service first, then in the order of the old set; empty:
            nothing. May be used when `check()` is through.
        is_cut: Whether there are more than it was to list.
    """

    __slots__ = ("_level", "_new", "_old", "_service", "_sides", "differences", "is_cut")

    def __init__(
        self, old: DescriptorSet, new: DescriptorSet, service: str, *, level: Level
    ) -> None:
        """
        Args:
            old: What callers hold; its `check()` is through.
            new: What hosts serve; its `check()` is through.
            service: Full name of the one that is called.
            level: What has to go on working.
        """
        self._old = old
        self._new = new
        self._service = service
        self._level = level
        self._sides = Elements(), Elements()
        self.differences: tuple[Difference, ...] = ()
        self.is_cut = False

    def check(self, limits: Limits) -> Iterator[None]:
        """
        Compare, a bounded part of the sets with each step. Once.

        Args:
            limits: `contract_differences_max` counts here.
        """
        if self._old.fingerprint == self._new.fingerprint:
            return
        for side, descriptors in zip(self._sides, (self._old, self._new), strict=True):
            yield from side.read(descriptors)
        found: list[Difference] = []
        for count, change in enumerate(self._changes()):
            if not count % _STEP_ELEMENTS:
                yield
            if change is None or self._level not in RULES[change.rule].levels:
                continue
            if len(found) == limits.contract_differences_max:
                self.is_cut = True
                break
            found.append(Difference(change.rule, shown(change.what), change.file, change.text))
        self.differences = tuple(found)

    def _changes(self) -> Iterator[Change | None]:
        old, new = self._sides
        yield from self._service_changes()
        for name, package in old.packages.items():
            now = new.packages.get(name, package)
            if now != package:
                text = f"the package was {package!r} and is {now!r}"
                yield Change("FILE_SAME_PACKAGE", package or name, name, text)
        for name, message in old.messages.items():
            yield None
            if name in new.messages:
                yield from message_changes(message, new.messages[name], self._sides, self._level)
        for name, enum in old.enums.items():
            yield None
            if name in new.enums:
                yield from enum_changes(enum, new.enums[name])
        for key, extension in old.extensions.items():
            yield None
            if key in new.extensions:
                yield from field_changes(extension, new.extensions[key], self._sides, self._level)

    def _service_changes(self) -> Iterator[Change | None]:
        old, new = self._sides
        # The one that is called comes first.
        for name in sorted(old.services, key=lambda name: name != self._service):
            is_called = name == self._service
            service = old.services[name]
            if name in new.services:
                yield from service_changes(service, new.services[name], is_kept=is_called)
            elif is_called:
                text = f"{shown(name)}: the service is gone"
                yield Change("SERVICE_NO_DELETE", name, service.file, text)


def compare(
    old: DescriptorSet, new: DescriptorSet, service: str, *, level: Level, limits: Limits
) -> tuple[Difference, ...]:
    """Compare all at once, as `Comparison` does; for those who need not do anything else."""
    comparison = Comparison(old, new, service, level=level)
    for _ in comparison.check(limits):
        pass
    return comparison.differences
