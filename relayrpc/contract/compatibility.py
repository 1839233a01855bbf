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
from relayrpc.contract.descriptors import shown_few
from relayrpc.contract.elements import (
    Element,
    Elements,
    EnumElement,
    FieldElement,
    MessageElement,
    ServiceElement,
)
from relayrpc.contract.field_changes import Change, field_changes, shown
from relayrpc.contract.fingerprint import parse_file
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
    """

    __slots__ = ("_after", "_before", "_level", "_new", "_old", "_service", "differences")

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
        self._before = Elements()
        self._after = Elements()
        self.differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        """Tell the first few differences, in a line."""
        return shown_few([str(each) for each in self.differences])

    def check(self, limits: Limits) -> Iterator[None]:
        """
        Compare, a bounded part of the sets with each step. Once.

        Args:
            limits: `contract_differences_max` counts here.
        """
        if self._old.fingerprint == self._new.fingerprint:
            return
        yield from self._before.load(self._old)
        yield from self._after.load(self._new)
        yield from self._after.index(self._new)
        found: list[Difference] = []
        for count, change in enumerate(self._changes()):
            if not count % _STEP_ELEMENTS:
                yield
            if change is None or self._level not in RULES[change.rule].levels:
                continue
            found.append(Difference(change.rule, shown(change.what), change.file, change.text))
            if len(found) == limits.contract_differences_max:
                break
        self.differences = tuple(found)

    def _changes(self) -> Iterator[Change | None]:
        yield from self._changes_of_called()
        for data in self._old.files():
            file = parse_file(data)
            package = self._after.packages.get(file.name, file.package)
            if package != file.package:
                text = f"the package was {file.package!r} and is {package!r}"
                yield Change("FILE_SAME_PACKAGE", file.package or file.name, file.name, text)
            for element in self._before.declared(file):
                yield None
                if element.descriptor.full_name != self._service:
                    yield from self._element_changes(element)

    def _changes_of_called(self) -> Iterator[Change | None]:
        *_, root = self._old.files()
        # Services are what a file declares first.
        for element in self._before.declared(parse_file(root)):
            if element.descriptor.full_name == self._service:
                yield from self._element_changes(element)
                if self._after.counterpart(element) is None:
                    text = f"{shown(self._service)}: the service is gone"
                    yield Change("SERVICE_NO_DELETE", self._service, element.file, text)
            if not isinstance(element, ServiceElement):
                break

    def _element_changes(self, old: Element) -> Iterator[Change | None]:
        new = self._after.counterpart(old)
        match old, new:
            case ServiceElement(), ServiceElement():
                is_called = old.descriptor.full_name == self._service
                yield from service_changes(old, new, is_kept=is_called)
            case MessageElement(), MessageElement():
                yield from message_changes(old, new, self._level)
            case EnumElement(), EnumElement():
                yield from enum_changes(old, new)
            case FieldElement(), FieldElement():
                yield from field_changes(old, new, self._level)


def compare(
    old: DescriptorSet, new: DescriptorSet, service: str, *, level: Level, limits: Limits
) -> tuple[Difference, ...]:
    """Compare all at once, as `Comparison` does; for those who need not do anything else."""
    comparison = Comparison(old, new, service, level=level)
    for _ in comparison.check(limits):
        pass
    return comparison.differences
