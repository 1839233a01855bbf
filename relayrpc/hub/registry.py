"""
The registry: which versions of a contract hosts may serve at an address, and what a hub's store
remembers of them.

Owns: comparing a version with those that callers may hold, and storing what came of it. Does not
own: where descriptors come from (contracts.py), which versions those are (contract_history.py),
what is a difference (contract/compatibility.py).
Source: docs/adr/0021-contract-registry.md.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from relayrpc.contract.address import services_of
from relayrpc.contract.compatibility import Comparison, Level
from relayrpc.contract.descriptors import DescriptorSet
from relayrpc.errors import ContractError, RevisionError, StoreError
from relayrpc.hub.addresses import Compatibility
from relayrpc.hub.contract_history import ContractHistory
from relayrpc.hub.steps import in_steps
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.addresses import AddressRules
    from relayrpc.hub.routing import Place, Router
    from relayrpc.limits import Limits
    from relayrpc.store.base import Store


__all__ = ["ContractRegistry"]

_SETS: Final = "contracts/sets/"
_HISTORY: Final = "contracts/history/"
# Part of a key in the store, and what identifiers of protobuf are made of.
_SERVICE: Final = re.compile(r"[A-Za-z0-9_.]{1,512}")


class ContractRegistry:
    """
    The registry of one hub. `open()` it before hosts come.

    Attributes:
        history: Of versions.
        rules: What holds at an address.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        router: Router,
        rules: Callable[[str], AddressRules],
        kept: Callable[[bytes], DescriptorSet | None],
        failed: Callable[[str], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """
        Args:
            limits: `contract_*` count here.
            router: Of the hub.
            rules: What holds at an address.
            kept: Returns descriptors that are in memory, by fingerprint.
            failed: Told why something could not be stored, or read; the hub goes on without.
            wall_clock: Seconds since 1970.
        """
        self._limits = limits
        self._router = router
        self.rules = rules
        self._kept = kept
        self._failed = failed
        self._wall_clock = wall_clock
        self.history = ContractHistory(limits, self.is_served)
        self._store: Store | None = None
        # Where there was something when the store was opened.
        self._remembered: set[Place] = set()
        # Stores when hosts were seen; None: there is nothing to be stored.
        self._seen_timer: asyncio.TimerHandle | None = None
        self._storing: set[asyncio.Task[None]] = set()

    async def open(self, store: Store) -> None:
        """
        Read what a store remembers, and keep it there from now on. Whoever opened it closes it.

        Raises:
            StoreError: It cannot be read.
        """
        entries = (await store.entries(_HISTORY)).entries
        try:
            self.history.load(entry.value for entry in entries)
        except DecodeError as error:
            raise StoreError("the store's history of contracts is damaged") from error
        self._remembered.update(self.history.places())
        self._store = store
        used = {_set_key(fingerprint) for fingerprint in self.history.fingerprints()}
        for key in await store.keys(_SETS):
            if key not in used:
                # Of a hub that was killed before it wrote what it is for.
                await store.delete(key)

    async def aclose(self) -> None:
        """Store what is not stored yet. Idempotent."""
        if self._seen_timer is not None:
            self._seen_timer.cancel()
            self._seen_timer = None
        await self._write(is_seen=True)
        if self._storing:
            await asyncio.wait(self._storing)
        self._store = None

    # --- what hosts may serve ---

    def takes_word(self, place: Place) -> bool:
        """Say whether this hub knows less of a place than hosts which served there before."""
        return place not in self._remembered

    async def judge(self, place: Place, descriptors: DescriptorSet) -> pb.ContractVersion:
        """
        Compare a version with those that callers may hold; `record()` what comes of it.

        Args:
            place: Where hosts would serve it; all that they announced there is judged first.
            descriptors: Of the version, checked; the place's service is in them.
        """
        asked = self.rules(place[0]).compatibility
        version = self._version(descriptors, asked)
        if not _SERVICE.fullmatch(place[1]):
            version.verdict = pb.CONTRACT_VERDICT_REFUSED
            version.details = f"{place[1][:80]!r} is no name of a service"
        elif asked is Compatibility.NONE:
            version.verdict = pb.CONTRACT_VERDICT_NOT_COMPARED
        else:
            version.verdict = pb.CONTRACT_VERDICT_ACCEPTED
            for fingerprint, level in list(self.history.held(place, Level(asked))):
                said = await self._compare(fingerprint, descriptors, place[1], level)
                if said:
                    version.verdict = pb.CONTRACT_VERDICT_REFUSED
                    version.details = (
                        f"the contract of {place[1]!r} breaks callers of its version "
                        f"{fingerprint.hex()[:12]}: {said}"
                    )
                    break
        return version

    async def _compare(
        self, fingerprint: bytes, new: DescriptorSet, service: str, level: Level
    ) -> str:
        """Say in what a version breaks those who hold another one; empty: in nothing."""
        old = await self.descriptors(fingerprint)
        if old is None:
            self._failed(f"the descriptors {fingerprint.hex()} are lost")
            return ""
        comparison = Comparison(old, new, service, level=level)
        await in_steps(comparison.check(self._limits))
        return str(comparison)

    async def descriptors(self, fingerprint: bytes) -> DescriptorSet | None:
        """Return the descriptors of a version, checked; None: they are not here."""
        found = await self.find(fingerprint)
        if found is not None and found is not self._kept(fingerprint):
            try:
                await in_steps(found.check(self._limits))
            except ContractError as error:
                self._failed(f"the descriptors {fingerprint.hex()} cannot be used: {error}")
                return None
        return found

    async def find(self, fingerprint: bytes) -> DescriptorSet | None:
        """Return the descriptors of a version, checked or not; None: they are not here."""
        return self._kept(fingerprint) or await self.stored(fingerprint)

    async def stored(self, fingerprint: bytes) -> DescriptorSet | None:
        """Return what is stored by a fingerprint, not checked yet; None: nothing."""
        if self._store is None or not self.history.has_set(fingerprint):
            return None
        try:
            entry = await self._store.get(_set_key(fingerprint))
        except StoreError as error:
            self._failed(str(error))
            return None
        found = None if entry is None else DescriptorSet(entry.value)
        return found if found is not None and found.fingerprint == fingerprint else None

    # --- what is remembered ---

    async def record(
        self, place: Place, version: pb.ContractVersion, descriptors: DescriptorSet, instance: str
    ) -> None:
        """
        Keep a verdict, and the descriptors that it is of. When it returns it is stored, as far as
        the store can.

        Args:
            place: Where.
            version: As `judge()` made it.
            descriptors: Of it.
            instance: Of the host that brought it.
        """
        version.instance = instance
        if self._store is not None:
            try:
                await self._store.put(
                    _set_key(version.fingerprint), descriptors.data, expected=0
                )
            except RevisionError:
                # It is there.
                pass
            except StoreError as error:
                self._failed(str(error))
        if not self.history.record(place, version):
            self._failed("there is no room for another version")
        await self._write(is_seen=False)

    async def record_served(
        self, place: Place, descriptors: DescriptorSet, instance: str
    ) -> None:
        """Keep a version that hosts serve already, although nobody compared it."""
        version = self._version(descriptors, self.rules(place[0]).compatibility)
        version.verdict = pb.CONTRACT_VERDICT_NOT_COMPARED
        await self.record(place, version, descriptors, instance)

    def seen(self, place: Place, fingerprint: bytes, instance: str) -> None:
        """Note that a host came or went; stored before long, together with others."""
        self.history.seen(
            place, fingerprint, instance=instance, now_unix_ms=self._now_unix_ms()
        )
        if self.history.is_seen and self._seen_timer is None and self._store is not None:
            self._seen_timer = asyncio.get_running_loop().call_later(
                self._limits.contract_history_s, self._store_seen
            )

    def _store_seen(self) -> None:
        self._seen_timer = None
        task = asyncio.get_running_loop().create_task(self._write(is_seen=True))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _write(self, *, is_seen: bool) -> None:
        """Bring the store up to date."""
        store = self._store
        if store is None:
            return
        changed = self.history.take_changed(is_seen=is_seen)
        dropped = self.history.take_dropped()
        try:
            for (address, service), data in changed.items():
                key = f"{_HISTORY}{address}/{service}"
                await (store.put(key, data) if data else store.delete(key))
            # What refers to them is gone by now.
            for fingerprint in dropped:
                if not self.history.has_set(fingerprint):
                    await store.delete(_set_key(fingerprint))
        except StoreError as error:
            self.history.not_stored(changed, dropped)
            self._failed(str(error))

    def _version(self, descriptors: DescriptorSet, asked: Compatibility) -> pb.ContractVersion:
        now_unix_ms = self._now_unix_ms()
        return pb.ContractVersion(
            fingerprint=descriptors.fingerprint,
            level=asked.value,
            first_seen_unix_ms=now_unix_ms,
            last_seen_unix_ms=now_unix_ms,
            descriptor_set_bytes=len(descriptors.data),
        )

    def is_served(self, place: Place, fingerprint: bytes) -> bool:
        """Say whether a host serves a version at exactly a place now."""
        return any(served == fingerprint for served in self._served(place))

    def served(self, place: Place) -> Counter[bytes]:
        """Return how many announcements serve which version at exactly a place."""
        return Counter(self._served(place))

    def _served(self, place: Place) -> Iterator[bytes]:
        address, service = place
        for host in self._router.hosts_of(address, service):
            if place in host.places:
                for entry in services_of(host.announce):
                    if entry.name == service and entry.fingerprint:
                        yield entry.fingerprint

    def _now_unix_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _set_key(fingerprint: bytes) -> str:
    return f"{_SETS}{fingerprint.hex()}"
