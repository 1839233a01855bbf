"""
What a hub answers of contracts. Goal: long answers come in parts that gRPC clients take, and a
version is found by the beginning of its fingerprint, or not at all. Method: the handlers, on
a hub without doors; what goes over a link is in tests/integration/test_contracts_command.py.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from relayrpc.contract.descriptors import checked
from relayrpc.hub.contract_queries import ContractQueries
from relayrpc.hub.describe import PART_BYTES
from relayrpc.hub.doorless import DoorlessHub
from relayrpc.v1 import hub_pb2 as pb
from tests.support.contracts import make_file, make_set


V1 = checked(make_set(make_file(fields={"x": 1})))


class Aborted(Exception):
    """A handler ended its call."""


class Context:
    """What a handler ends its call by."""

    async def abort(self, code: grpc.StatusCode, details: str, *_: Any) -> None:
        raise Aborted(code, details)


@pytest.fixture
async def hub() -> Any:
    hub = DoorlessHub()
    await hub.start()
    yield hub
    await hub.aclose()


def queries(hub: DoorlessHub) -> Any:
    return ContractQueries(hub.sessions, hub.contracts)


def put(hub: DoorlessHub, address: str, fingerprint: bytes, details: str = "") -> None:
    version = pb.ContractVersion(
        fingerprint=fingerprint, verdict=pb.CONTRACT_VERDICT_ACCEPTED, details=details
    )
    hub.contracts.registry.history.record((address, "t.Service"), version)


async def test_list_comes_in_parts_in_order(hub: DoorlessHub) -> None:
    for number in range(100):
        put(hub, f"a/{number:03}", b"v%d" % number, details="x" * 1_000)
    put(hub, "b", b"v")
    request = pb.ListContractsRequest(address="a", service="t.Service")
    parts = [part async for part in queries(hub).list_contracts(request, Context())]
    assert len(parts) == 4
    assert all(part.ByteSize() < PART_BYTES + 2_000 for part in parts)
    addresses = [each.address for part in parts for each in part.contracts]
    assert addresses == [f"a/{number:03}" for number in range(100)]


async def test_list_of_nothing_is_empty(hub: DoorlessHub) -> None:
    request = pb.ListContractsRequest(address="none")
    assert [part async for part in queries(hub).list_contracts(request, Context())] == []


async def test_version_is_found_by_the_beginning_of_its_fingerprint(hub: DoorlessHub) -> None:
    place = ("a", "t.Service")
    registry = hub.contracts.registry
    await registry.record(place, await registry.judge(place, V1), V1, "i")
    put(hub, "a", V1.fingerprint[:4] + bytes(28))

    def asked(fingerprint: bytes) -> pb.GetContractRequest:
        return pb.GetContractRequest(address="a", service="t.Service", fingerprint=fingerprint)

    found = await queries(hub).get_contract(asked(V1.fingerprint[:5]), Context())
    assert (found.fingerprint, found.descriptor_set) == (V1.fingerprint, V1.data)
    with pytest.raises(Aborted) as several:
        await queries(hub).get_contract(asked(V1.fingerprint[:4]), Context())
    assert several.value.args[0] is grpc.StatusCode.INVALID_ARGUMENT
    # One that is not known, and one whose descriptors are lost.
    for fingerprint in (b"none", V1.fingerprint[:4] + bytes(28)):
        with pytest.raises(Aborted) as missing:
            await queries(hub).get_contract(asked(fingerprint), Context())
        assert missing.value.args[0] is grpc.StatusCode.NOT_FOUND
