"""
Goal: whoever meets a bound is told when to call again, and gRPC's own retry policy obeys; a call
that may have run is not run again by it.

Method: hubs and hosts with bounds of one call, a call that holds the place, and one more; channels
of the relay and of grpcio, the latter with a retry policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc.aio
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS, Limits
from tests.support.relay import ADDRESS, Stub, running_hub
from tests.support.until import until


pytestmark = pytest.mark.integration

AT = (("relay-address", ADDRESS),)


@dataclass(frozen=True)
class Bound:
    """Where one call more is too many; what its caller is told besides, and by whom."""

    name: str
    says: str
    origin: str
    hub: Limits = DEFAULT_LIMITS
    host: Limits = DEFAULT_LIMITS
    slots: int = 0
    rpcs_max: int | None = None
    waits: int = 0
    """How many calls wait before it."""
    doors: tuple[str, ...] = ("link", "native")


BOUNDS = (
    Bound(
        "queue",
        "1 calls wait already",
        "hub",
        replace(DEFAULT_LIMITS, queue_calls_max=1),
        slots=1,
        waits=1,
    ),
    Bound(
        "host's link",
        "too many calls open",
        "hub",
        host=replace(DEFAULT_LIMITS, calls_open_max=1),
    ),
    Bound("host's server", "Concurrent RPC limit exceeded!", "host", rpcs_max=1),
    Bound(
        "caller's link",
        "1 calls are open on this link",
        "caller",
        replace(DEFAULT_LIMITS, calls_open_max=1),
        doors=("link",),
    ),
    Bound(
        "native clients",
        "calls of gRPC clients",
        "hub",
        replace(DEFAULT_LIMITS, native_calls_max=1),
        doors=("native",),
    ),
)
CASES = [
    pytest.param(bound, door, id=f"{bound.name}, {door}")
    for bound in BOUNDS
    for door in bound.doors
]


class Holding:
    """A service whose calls last until they are let go."""

    def __init__(self) -> None:
        self.started = asyncio.Semaphore(0)
        self.count = 0
        self.let_go = asyncio.Event()

    async def hold(self, request: bytes, context: Any) -> bytes:
        self.count += 1
        self.started.release()
        await self.let_go.wait()
        return request


class ReleaseOnceRefused(HubObserver):
    """Lets the calls of a service go when another one was refused."""

    def __init__(self, service: Holding) -> None:
        self.refused_count = 0
        self._service = service

    def call_ended(self, came: Any, end: Any, registration: Any, duration_s: float) -> None:
        if end.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]:
            self.refused_count += 1
            self._service.let_go.set()


@contextlib.asynccontextmanager
async def serving(hub: Hub, service: Holding, **options: Any) -> AsyncIterator[relayrpc.aio.Server]:
    server = relayrpc.aio.server(f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}", **options)
    server.add_registered_method_handlers(
        "test.Service", {"Hold": grpc.unary_unary_rpc_method_handler(service.hold)}
    )
    await server.start()
    try:
        yield server
    finally:
        service.let_go.set()
        await server.stop(None)


def open_channel(hub: Hub, door: str, **policy: Any) -> grpc.aio.Channel:
    if door == "link":
        return relayrpc.aio.channel(f"ws://127.0.0.1:{hub.http_port}")
    options = []
    if policy:
        method = {"name": [{"service": "test.Service"}], "retryPolicy": policy}
        options.append(("grpc.service_config", json.dumps({"methodConfig": [method]})))
    return grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}", options)


POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}


@pytest.mark.parametrize(("bound", "door"), CASES)
async def test_call_beyond_a_bound_is_told_when_to_call_again(bound: Bound, door: str) -> None:
    service = Holding()
    options = {
        "limits": bound.host,
        "slots": bound.slots,
        "maximum_concurrent_rpcs": bound.rpcs_max,
    }
    async with (
        running_hub(limits=bound.hub) as hub,
        serving(hub, service, **options),
        open_channel(hub, door) as channel,
    ):
        method = Stub(channel).unary_unary("Hold")
        holds = [asyncio.ensure_future(method(b"first", metadata=AT))]
        await service.started.acquire()
        # On one connection they are not sure to come in order: the hub says when one waits.
        for count in range(1, bound.waits + 1):
            holds.append(asyncio.ensure_future(method(b"waits", metadata=AT)))
            await until(lambda count=count: len(hub.sessions.forwarder.queue) >= count)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await method(b"too many", metadata=AT)
        error = told.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert bound.says in error.details()
        trailing = error.trailing_metadata()
        assert trailing["grpc-retry-pushback-ms"] == "1000"
        assert trailing["relay-may-have-executed"] == "false"
        assert trailing["relay-origin"] == bound.origin
        service.let_go.set()
        assert await asyncio.gather(*holds) == [b"first", b"waits"][: len(holds)]


async def test_retry_policy_calls_again_when_it_was_told_to() -> None:
    service = Holding()
    async with (
        running_hub(limits=replace(DEFAULT_LIMITS, retry_after_s=0.05)) as hub,
        serving(hub, service, maximum_concurrent_rpcs=1),
        open_channel(hub, "native", **POLICY) as channel,
    ):
        hub.sessions.observers.add(release := ReleaseOnceRefused(service))
        method = Stub(channel).unary_unary("Hold")
        first = asyncio.ensure_future(method(b"first", metadata=AT))
        await service.started.acquire()
        second = asyncio.ensure_future(method(b"second", metadata=AT))
        assert await asyncio.gather(first, second) == [b"first", b"second"]
        assert release.refused_count > 0


async def test_retry_policy_does_not_run_a_call_twice_whose_host_is_lost() -> None:
    """Another host is there that would run it; gRPC's policy alone would have asked for that."""
    lost, left = Holding(), Holding()
    async with (
        running_hub() as hub,
        open_channel(hub, "native", **POLICY) as channel,serving(hub, lost) as server
    ):
        call = asyncio.ensure_future(Stub(channel).unary_unary("Hold")(b"", metadata=AT))
        await lost.started.acquire()
        async with serving(hub, left):
            await server.stop(0)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE
    assert told.value.trailing_metadata()["grpc-retry-pushback-ms"] == "-1"
    assert (lost.count, left.count) == (1, 0)
