"""
The registry and its store. Goal: what was accepted is stored before it counts, and read again by
the next hub; hosts that come by the thousand are not written each; a store that fails costs nothing
but its memory. Method: verdicts on sets made by hand, on a store in memory that is looked into.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.errors import StoreError, StoreFullError
from relayrpc.hub.addresses import AddressRules, Compatibility
from relayrpc.hub.registry import ContractRegistry
from relayrpc.hub.routing import Router
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.store.memory import MemoryStore
from relayrpc.v1 import hub_pb2 as pb
from tests.support.contracts import make_file, make_set
from tests.support.until import until


ACCEPTED = pb.CONTRACT_VERDICT_ACCEPTED
REFUSED = pb.CONTRACT_VERDICT_REFUSED
PLACE = ("a/b", "t.Service")
HISTORY_KEY = "contracts/history/a/b/t.Service"


def made(file: FileDescriptorProto) -> DescriptorSet:
    return checked(make_set(file))


V1 = made(make_file(fields={"x": 1}))
V2 = made(make_file(fields={"x": 1, "y": 2}))
BAD = made(make_file(fields={"z": 1}))


class LookedInto(MemoryStore):
    """Counts what is written, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []
        self.error: StoreError | None = None

    async def put(self, key: str, value: bytes, **options: int | None) -> int:
        if self.error is not None:
            raise self.error
        self.puts.append(key)
        return await super().put(key, value, **options)


class Registry(ContractRegistry):
    """One that keeps nothing in memory, and notes faults."""

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        compatibility: Compatibility = Compatibility.WIRE_JSON,
    ) -> None:
        self.faults: list[str] = []
        self.now_s = 1_000.0
        super().__init__(
            limits=limits,
            router=Router(random=random.Random(1)),
            rules=lambda _address: AddressRules(compatibility=compatibility),
            kept=lambda _fingerprint: None,
            failed=self.faults.append,
            wall_clock=lambda: self.now_s,
        )

    async def bring(
        self, descriptors: DescriptorSet, place: tuple[str, str] = PLACE
    ) -> pb.ContractVersion:
        version = await self.judge(place, descriptors)
        await self.record(place, version, descriptors, "i")
        return version


async def opened(store: MemoryStore, limits: Limits = DEFAULT_LIMITS) -> Registry:
    registry = Registry(limits)
    await registry.open(store)
    return registry


async def test_first_version_is_accepted_and_stored_with_its_descriptors() -> None:
    store = LookedInto()
    registry = await opened(store)
    assert (await registry.bring(V1)).verdict == ACCEPTED
    assert store.puts == [f"contracts/sets/{V1.fingerprint.hex()}", HISTORY_KEY]
    entry = await store.get(HISTORY_KEY)
    assert entry is not None
    assert pb.ContractHistory.FromString(entry.value) == pb.ContractHistory(
        address="a/b",
        service="t.Service",
        versions=[
            pb.ContractVersion(
                fingerprint=V1.fingerprint,
                verdict=ACCEPTED,
                level="wire_json",
                first_seen_unix_ms=1_000_000,
                last_seen_unix_ms=1_000_000,
                instance="i",
                descriptor_set_bytes=len(V1.data),
            )
        ],
    )


async def test_version_that_breaks_callers_is_refused_with_what_and_by_which_rule() -> None:
    registry = await opened(MemoryStore())
    await registry.bring(V1)
    refused = await registry.bring(BAD)
    assert refused.verdict == REFUSED
    assert refused.details == (
        f"the contract of 't.Service' breaks callers of its version {V1.fingerprint.hex()[:12]}: "
        "t.proto: field 1 (t.M.x) is called 'z' now [FIELD_SAME_NAME]; "
        "t.proto: field 1 (t.M.x) is called 'z' in JSON now, no longer 'x' [FIELD_SAME_JSON_NAME]"
    )
    # What was refused is held by nobody.
    assert (await registry.bring(V2)).verdict == ACCEPTED


@pytest.mark.parametrize(
    ("compatibility", "verdict"),
    [
        (Compatibility.WIRE_JSON, REFUSED),
        (Compatibility.WIRE, ACCEPTED),
        (Compatibility.NONE, pb.CONTRACT_VERDICT_NOT_COMPARED),
    ],
)
async def test_entry_of_the_address_says_what_has_to_go_on_working(
    compatibility: Compatibility, verdict: pb.ContractVerdict
) -> None:
    """A field that is renamed breaks JSON alone."""
    registry = Registry(compatibility=compatibility)
    await registry.open(MemoryStore())
    await registry.bring(V1)
    version = await registry.bring(BAD)
    assert (version.verdict, version.level) == (verdict, compatibility.value)


async def test_version_is_compared_with_all_that_callers_may_hold() -> None:
    """With the oldest too, which the newest has lost a message of."""
    with_any, without, other = make_file(fields={"x": 1}), make_file(fields={"x": 1}), make_file()
    other.CopyFrom(without)
    with_any.message_type.add(name="Old").field.add(name="a", number=1, type=5, label=1)
    other.message_type.add(name="Old").field.add(name="a", number=1, type=9, label=1)
    registry = await opened(MemoryStore())
    assert (await registry.bring(made(with_any))).verdict == ACCEPTED
    assert (await registry.bring(made(without))).verdict == ACCEPTED
    refused = await registry.bring(made(other))
    assert refused.verdict == REFUSED
    assert made(with_any).fingerprint.hex()[:12] in refused.details


async def test_next_hub_knows_what_the_last_one_stored() -> None:
    store = MemoryStore()
    before = await opened(store)
    assert before.takes_word(PLACE)
    await before.bring(V1)
    await before.aclose()
    after = await opened(store)
    assert after.history.describe(PLACE) == before.history.describe(PLACE)
    assert not after.takes_word(PLACE)
    assert (await after.bring(BAD)).verdict == REFUSED


async def test_hosts_that_come_back_are_written_together_and_at_the_end() -> None:
    store = LookedInto()
    registry = await opened(store, replace(DEFAULT_LIMITS, contract_history_s=0.01))
    await registry.bring(V1)
    store.puts.clear()
    registry.now_s = 2_000.0
    for number in range(1_000):
        registry.seen(PLACE, V1.fingerprint, f"i{number}")
    assert not store.puts
    await until(lambda: store.puts)
    assert store.puts == [HISTORY_KEY]
    registry.seen(PLACE, V1.fingerprint, "last")
    await registry.aclose()
    assert store.puts == 2 * [HISTORY_KEY]
    again = await opened(store)
    (version,) = again.history.describe(PLACE).versions
    assert (version.instance, version.last_seen_unix_ms) == ("last", 2_000_000)
    # Closed, it writes no more.
    registry.seen(PLACE, V1.fingerprint, "later")
    await registry.aclose()
    assert store.puts == 2 * [HISTORY_KEY]


async def test_descriptors_go_with_the_last_version_that_has_them() -> None:
    store = MemoryStore()
    registry = await opened(store, replace(DEFAULT_LIMITS, contract_versions_max=1))
    await registry.bring(V1)
    await registry.bring(V2)
    assert await store.keys("contracts/sets/") == [f"contracts/sets/{V2.fingerprint.hex()}"]


async def test_descriptors_that_nothing_refers_to_are_deleted_at_the_start() -> None:
    """A hub was killed between the two writes."""
    store = MemoryStore()
    await store.put(f"contracts/sets/{V1.fingerprint.hex()}", V1.data)
    await opened(store)
    assert await store.keys() == []


@pytest.mark.parametrize("error", [StoreError("the disk is gone"), StoreFullError("it is full")])
async def test_store_that_fails_is_told_and_tried_again(error: StoreError) -> None:
    store = LookedInto()
    registry = await opened(store)
    store.error = error
    assert (await registry.bring(V1)).verdict == ACCEPTED
    assert registry.faults == 2 * [str(error)]
    assert registry.history.is_accepted(PLACE, V1.fingerprint)
    store.error = None
    await registry.bring(V2)
    assert HISTORY_KEY in store.puts


async def test_descriptors_that_are_lost_are_compared_with_nothing() -> None:
    store = MemoryStore()
    registry = await opened(store)
    await registry.bring(V1)
    await store.put(f"contracts/sets/{V1.fingerprint.hex()}", b"damaged")
    assert (await registry.bring(BAD)).verdict == ACCEPTED
    assert registry.faults == [f"the descriptors {V1.fingerprint.hex()} are lost"]


async def test_history_that_is_damaged_is_no_start() -> None:
    store = MemoryStore()
    await store.put(HISTORY_KEY, b"\xff")
    with pytest.raises(StoreError, match="the store's history of contracts is damaged"):
        await opened(store)


async def test_without_room_a_version_is_served_and_not_remembered() -> None:
    registry = await opened(MemoryStore(), replace(DEFAULT_LIMITS, contract_history_bytes_max=1))
    assert (await registry.bring(V1)).verdict == ACCEPTED
    assert not registry.history.is_accepted(PLACE, V1.fingerprint)
    assert registry.faults == ["there is no room for another version"]


async def test_service_whose_name_is_none_is_refused() -> None:
    registry = await opened(MemoryStore())
    refused = await registry.judge(("a", "t.Serv/ice"), V1)
    assert (refused.verdict, refused.details) == (REFUSED, "'t.Serv/ice' is no name of a service")
