"""
What a hub's reflection answers where there is more than an answer holds. Goal: no gRPC client is
sent a message that it does not take; it is told how to ask for less. Method: a hub without doors
whose table of hosts is filled by hand; what clients see otherwise is in
tests/integration/test_reflection.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from relayrpc.endpoint.handlers import HandlerCallDetails
from relayrpc.hub.doorless import DoorlessHub
from relayrpc.hub.reflection import HubReflection
from relayrpc.limits import DEFAULT_LIMITS, MIB
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


METHOD = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Context:
    """What a stream of reflection is told of its call."""

    def __init__(self, address: str) -> None:
        self._address = address

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("relay-address", self._address)] if self._address else []


@pytest.fixture
async def hub() -> Any:
    hub = DoorlessHub()
    await hub.start()
    yield hub
    await hub.aclose()


async def listed(hub: DoorlessHub, address: str = "") -> reflection_pb2.ServerReflectionResponse:
    """Ask for all services, as a stream does."""

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="*")

    handler = HubReflection(hub.sessions, hub.contracts).service(HandlerCallDetails(METHOD, ()))
    assert handler is not None
    (response,) = [each async for each in handler.stream_stream(requests(), Context(address))]
    assert response.ByteSize() < 4 * MIB
    return response


def serve(hub: DoorlessHub, address: str, count: int) -> None:
    """Have a host serve many services with long names."""
    link = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="host", now_s=0)
    services = [
        pb.ServiceDescription(name=f"test.{address}.S{number:0500}") for number in range(count)
    ]
    hub.sessions.forwarder.router.add(link, pb.Announce(id=1, address=address, services=services))


async def test_list_that_no_client_takes_is_refused_with_what_to_ask_instead(
    hub: DoorlessHub,
) -> None:
    serve(hub, "many", 8_000)
    serve(hub, "few", 1_000)
    own_count = len((await listed(hub, "nobody")).list_services_response.service)
    # Without an address, what the hub serves at "$hub" is among them.
    for address, count in (("", 9_001), ("many", 8_000)):
        response = await listed(hub, address)
        assert response.WhichOneof("message_response") == "error_response"
        assert response.error_response.error_code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert response.error_response.error_message == (
            f"{count + own_count} services; name an address in the metadata relay-address"
        )
        assert response.original_request.list_services == "*"
    response = await listed(hub, "few")
    assert len(response.list_services_response.service) == 1_000 + own_count
