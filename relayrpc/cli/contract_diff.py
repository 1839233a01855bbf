"""
In what a version of a contract breaks those who hold another one, as lines for people.

Owns: which versions are compared. Does not own: what breaks callers (contract/compatibility.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.contract.compatibility import Level, compare
from relayrpc.contract.compatibility_rules import RULES
from relayrpc.contract.descriptors import checked
from relayrpc.hub.contract_history import ContractHistory
from relayrpc.limits import DEFAULT_LIMITS


if TYPE_CHECKING:
    from relayrpc.cli.contract_versions import Versions
    from relayrpc.contract.descriptors import DescriptorSet


__all__ = ["differences"]


async def differences(
    at: Versions, old: str, new: str, given: DescriptorSet | None
) -> list[str]:
    """
    Compare as the hub does: with the newest version first, up to one that breaks.

    Args:
        at: The versions.
        old: The first digits of one; empty: each that callers may hold.
        new: The same of the one after it; empty: the newest.
        given: That one itself; None: it is the hub's.

    Raises:
        RelayError: There is no such version.
    """
    after = given or checked(await at.get_picked(new))
    for fingerprint, level in _held(at, old):
        if fingerprint == after.fingerprint:
            continue
        before = checked(await at.get(fingerprint))
        found = compare(before, after, at.history.service, level=level, limits=DEFAULT_LIMITS)
        if found:
            lines = [f"callers of version {fingerprint.hex()[:12]} would break:"]
            for difference in found:
                lines += [f"  {difference}", f"    instead: {RULES[difference.rule].instead}"]
            return lines
    return []


def _held(at: Versions, old: str) -> list[tuple[bytes, Level]]:
    history = ContractHistory(DEFAULT_LIMITS, lambda _place, _fingerprint: False)
    history.load([at.history.SerializeToString()])
    place = (at.history.address, at.history.service)
    newest = at.pick("")
    level = Level.WIRE if newest.level == Level.WIRE else Level.WIRE_JSON
    held = list(history.held(place, level))
    if old:
        fingerprint = at.pick(old).fingerprint
        return [(fingerprint, dict(held).get(fingerprint, level))]
    return held
