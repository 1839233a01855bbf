"""
Which versions of a service's contract a hub has seen at each address, what became of them, and
which of them callers may hold. Pure.

What was changed is noted until it is taken, to be stored.
Owns: the history and its bounds. Does not own: where it is stored and what is compared
(registry.py).
Source: docs/adr/0021-contract-registry.md; hub.proto, ContractHistory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from relayrpc.contract.compatibility import Level
from relayrpc.hub.addresses import Compatibility
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.routing import Place
    from relayrpc.limits import Limits


__all__ = ["ContractHistory"]

_REFUSED: Final = pb.CONTRACT_VERDICT_REFUSED


class ContractHistory:
    """All versions at all places."""

    def __init__(self, limits: Limits, is_served: Callable[[Place, bytes], bool]) -> None:
        """
        Args:
            limits: `contract_versions_max` and `contract_history_*` count here.
            is_served: Says whether a host serves a version at a place now, by its fingerprint.
        """
        self._limits = limits
        self._is_served = is_served
        # By fingerprint, in the order of verdicts, the last one given last.
        self._by_place: dict[Place, dict[bytes, pb.ContractVersion]] = {}
        # Fingerprint -> versions that have it. The sizes are those of descriptor sets.
        self._counts: Counter[bytes] = Counter()
        self._versions_count = 0
        self._size_bytes = 0
        # Since they were last taken.
        self._changed: dict[Place, None] = {}
        self._seen: dict[Place, None] = {}
        self._dropped: dict[bytes, None] = {}

    def load(self, data: Iterable[bytes]) -> None:
        """
        Read what was stored, before anything else.

        Raises:
            DecodeError: It is something else.
        """
        for each in data:
            history = pb.ContractHistory.FromString(each)
            for version in history.versions:
                self._add((history.address, history.service), version)

    # --- looking in ---

    def places(self, address: str = "", service: str = "") -> list[Place]:
        """
        Return where there is anything, by address and service.

        Args:
            address: Only there and below; empty: everywhere.
            service: Only of this one; empty: of all.
        """
        return sorted(
            place
            for place in self._by_place
            if (not address or f"{place[0]}/".startswith(f"{address}/"))
            and service in ("", place[1])
        )

    def describe(self, place: Place) -> pb.ContractHistory:
        """Return the versions at a place."""
        address, service = place
        versions = self._by_place.get(place, {}).values()
        return pb.ContractHistory(address=address, service=service, versions=versions)

    def is_accepted(self, place: Place, fingerprint: bytes) -> bool:
        """Say whether hosts may serve a version without being asked anything."""
        version = self._by_place.get(place, {}).get(fingerprint)
        return version is not None and version.verdict != _REFUSED

    def is_refused(self, place: Place, fingerprint: bytes) -> bool:
        """Say whether a version was refused, and not accepted since."""
        version = self._by_place.get(place, {}).get(fingerprint)
        return version is not None and version.verdict == _REFUSED

    def rank(self, place: Place, fingerprint: bytes) -> int:
        """Return the place of a version in the order of verdicts, 0 for the first; -1: none."""
        versions = self._by_place.get(place, {})
        return list(versions).index(fingerprint) if fingerprint in versions else -1

    def held(self, place: Place, level: Level) -> Iterator[tuple[bytes, Level]]:
        """
        Yield the versions that callers may hold, the newest first, each with what has to go on
        working for those callers: no more than what the versions after it were asked for. One that
        nothing was asked for ends it, as callers of those before are on their own since.

        Args:
            place: Where.
            level: What is asked for now.
        """
        for version in reversed(self._by_place.get(place, {}).values()):
            if version.verdict == _REFUSED:
                continue
            yield version.fingerprint, level
            if version.level == Compatibility.NONE:
                return
            if version.level == Compatibility.WIRE:
                level = Level.WIRE

    def fingerprints(self) -> Iterable[bytes]:
        """Return those of all versions, each once."""
        return list(self._counts)

    def has_set(self, fingerprint: bytes) -> bool:
        """Say whether there is a version with these descriptors."""
        return fingerprint in self._counts

    # --- changing it ---

    def record(self, place: Place, version: pb.ContractVersion) -> bool:
        """
        Note a verdict.

        Args:
            place: Where.
            version: What is to be known of it; its first time is that of the first verdict.

        Returns:
            False: there is no room, as all that is there is served now.
        """
        before = self._by_place.get(place, {}).get(version.fingerprint)
        if before is not None:
            version.first_seen_unix_ms = before.first_seen_unix_ms
            self._drop(place, before)
        self._add(place, version)
        self._changed[place] = None
        self._bound_place(place, version)
        self._bound_all(version)
        if self._is_over():
            self._drop(place, version)
            return False
        return True

    def seen(self, place: Place, fingerprint: bytes, *, instance: str, now_unix_ms: int) -> None:
        """Note that a host of a version came or went; one that is not there is passed over."""
        version = self._by_place.get(place, {}).get(fingerprint)
        if version is not None:
            version.instance = instance
            version.last_seen_unix_ms = now_unix_ms
            self._seen[place] = None

    def _add(self, place: Place, version: pb.ContractVersion) -> None:
        self._by_place.setdefault(place, {})[version.fingerprint] = version
        if not self._counts[version.fingerprint]:
            self._size_bytes += version.descriptor_set_bytes
            self._dropped.pop(version.fingerprint, None)
        self._counts[version.fingerprint] += 1
        self._versions_count += 1

    def _drop(self, place: Place, version: pb.ContractVersion) -> None:
        fingerprint = version.fingerprint
        versions = self._by_place[place]
        del versions[fingerprint]
        if not versions:
            del self._by_place[place]
        self._changed[place] = None
        self._versions_count -= 1
        self._counts[fingerprint] -= 1
        if not self._counts[fingerprint]:
            del self._counts[fingerprint]
            self._size_bytes -= version.descriptor_set_bytes
            self._dropped[fingerprint] = None

    def _bound_place(self, place: Place, added: pb.ContractVersion) -> None:
        """Let refused versions push out refused ones, and the others others."""
        is_refused = added.verdict == _REFUSED
        alike = [
            version
            for version in self._by_place[place].values()
            if (version.verdict == _REFUSED) == is_refused and version is not added
        ]
        too_many = len(alike) + 1 - self._limits.contract_versions_max
        if too_many <= 0:
            return
        # Those that nobody serves first; else in their order.
        alike.sort(key=lambda version: self._is_served(place, version.fingerprint))
        for version in alike[:too_many]:
            self._drop(place, version)

    def _bound_all(self, added: pb.ContractVersion) -> None:
        if not self._is_over():
            return
        left = [
            (version.verdict != _REFUSED, version.last_seen_unix_ms, place, version.fingerprint)
            for place, versions in self._by_place.items()
            for version in versions.values()
            if version is not added
        ]
        for _, _, place, fingerprint in sorted(left):
            if self._is_served(place, fingerprint):
                continue
            self._drop(place, self._by_place[place][fingerprint])
            if not self._is_over():
                break

    def _is_over(self) -> bool:
        limits = self._limits
        return (
            self._versions_count > limits.contract_history_max
            or self._size_bytes > limits.contract_history_bytes_max
        )

    # --- what is to be stored ---

    @property
    def is_seen(self) -> bool:
        """True while hosts came or went, and that was not taken."""
        return bool(self._seen)

    def take_changed(self, *, is_seen: bool) -> dict[Place, bytes]:
        """
        Return what is to be stored for each place since it was last asked; empty bytes: nothing any
        more.

        Args:
            is_seen: Those too where hosts merely came or went.
        """
        changed = self._changed | (self._seen if is_seen else {})
        for place in changed:
            self._seen.pop(place, None)
        self._changed = {}
        return {place: self._stored(place) for place in changed}

    def take_dropped(self) -> list[bytes]:
        """Return the fingerprints that no version has any more since it was last asked."""
        dropped, self._dropped = list(self._dropped), {}
        return dropped

    def not_stored(self, places: Iterable[Place], fingerprints: Iterable[bytes]) -> None:
        """Have what was taken taken again."""
        self._changed.update(dict.fromkeys(places))
        self._dropped.update(
            (each, None) for each in fingerprints if each not in self._counts
        )

    def _stored(self, place: Place) -> bytes:
        history = self.describe(place)
        return history.SerializeToString() if history.versions else b""
