"""
Generated callers and servicers at work. Goal: they do on any channel and server what plain stubs
do, and their contract is the one that the host announces. Method: one async and one blocking
servicer, on grpcio's own servers and behind a hub.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc.errors import UsageError
from relayrpc.testing import run_hub
from tests.support.blocking import hub_thread
from tests.support.contract_hosts import ask_contract
from tests.support.generated import Cases


pytestmark = pytest.mark.integration

ADDRESS = "contoso/parcels"


class Parcels:
    """Serves cases.shapes.Parcels; knows nothing of what is generated but its messages."""

    def __init__(self, cases: Cases) -> None:
        self.pb = cases.shapes_pb2

    async def Take(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if not request.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a parcel has a name")
        remaining_s = context.time_remaining()
        context.set_trailing_metadata((("remaining", str(remaining_s)),))
        return self.pb.Receipt(number=len(request.name))

    async def Give(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for number in range(request.number):
            yield self.pb.Parcel(name=str(number))

    async def TakeAll(self, requests: AsyncIterator[Any], context: Any) -> Any:
        return self.pb.Receipt(number=len([each async for each in requests]))

    async def Weigh(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for each in requests:
            yield self.pb.Weight(grams=each.grams * 2)

    async def Accept(self, request: Any, context: Any) -> Any:
        return self.pb.Receipt()


class ParcelsSync:
    """The same for threads."""

    def __init__(self, cases: Cases) -> None:
        self.pb = cases.shapes_pb2

    def Take(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.name:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a parcel has a name")
        return self.pb.Receipt(number=len(request.name))

    def Give(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for number in range(request.number):
            yield self.pb.Parcel(name=str(number))

    def TakeAll(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        return self.pb.Receipt(number=len(list(requests)))

    def Weigh(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for each in requests:
            yield self.pb.Weight(grams=each.grams * 2)

    def Accept(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self.pb.Receipt()


@contextlib.asynccontextmanager
async def direct(add: Callable[[Any], None]) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@contextlib.asynccontextmanager
async def relayed(add: Callable[[Any], None]) -> AsyncIterator[grpc.aio.Channel]:
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        add(server)
        await server.start()
        yield hub.channel(ADDRESS)


@contextlib.contextmanager
def direct_sync(add: Callable[[Any], None]) -> Iterator[grpc.Channel]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        server.stop(None).wait()


@contextlib.contextmanager
def relayed_sync(add: Callable[[Any], None]) -> Iterator[grpc.Channel]:
    with hub_thread() as hub, ThreadPoolExecutor(2) as pool:
        server = relayrpc.server(hub.url(ADDRESS), pool)
        add(server)
        server.start()
        with relayrpc.channel(hub.url(ADDRESS)) as channel:
            yield channel
        server.stop(None).wait()


@pytest.mark.parametrize("place", [direct, relayed])
async def test_async_caller_calls_async_servicer_in_every_shape(cases: Cases, place: Any) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    names = [pb.Parcel(name=name, grams=5) for name in ("a", "bc")]

    def add(server: Any) -> None:
        relay.add_ParcelsServicer_to_server(Parcels(cases), server)

    async with place(add) as channel:
        parcels = relay.ParcelsCaller(channel)
        call = parcels.Take(names[1])
        receipt = await call
        assert type(receipt) is pb.Receipt
        assert receipt.number == 2
        assert await call.code() is grpc.StatusCode.OK
        assert [each.name async for each in parcels.Give(pb.Receipt(number=3))] == ["0", "1", "2"]
        assert (await parcels.TakeAll(iter(names))).number == 2
        assert [each.grams async for each in parcels.Weigh(iter(names))] == [10, 10]
        chat = parcels.Weigh()
        await chat.write(names[0])
        assert (await chat.read()).grams == 10
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError, match="a parcel has a name"):
            await parcels.Take(pb.Parcel())


@pytest.mark.parametrize("place", [direct_sync, relayed_sync])
def test_blocking_caller_calls_blocking_servicer_in_every_shape(cases: Cases, place: Any) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    names = [pb.Parcel(name=name, grams=5) for name in ("a", "bc")]

    def add(server: Any) -> None:
        relay.add_ParcelsServicerSync_to_server(ParcelsSync(cases), server)

    with place(add) as channel:
        parcels = relay.ParcelsCallerSync(channel)
        assert parcels.Take(names[1], timeout=30).number == 2
        call = parcels.Give(pb.Receipt(number=3))
        assert [each.name for each in call] == ["0", "1", "2"]
        assert call.code() is grpc.StatusCode.OK
        assert parcels.TakeAll(iter(names)).number == 2
        assert [each.grams for each in parcels.Weigh(iter(names))] == [10, 10]
        with pytest.raises(grpc.RpcError, match="a parcel has a name"):
            parcels.Take(pb.Parcel())


async def test_method_with_a_stream_is_not_published(cases: Cases) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    callers: relayrpc.aio.CallbackSet[Any] = relayrpc.aio.CallbackSet(relay.ParcelsCaller)

    class Watched(Parcels):
        async def Take(self, request: Any, context: Any) -> Any:
            callers.add(context)
            return pb.Receipt()

    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        relay.add_ParcelsServicer_to_server(Watched(cases), server)
        await server.start()
        callbacks = [(relay.add_ParcelsServicer_to_server, Parcels(cases))]
        await relay.ParcelsCaller(hub.channel(ADDRESS, callbacks=callbacks)).Take(pb.Parcel())
        for method in ("Give", "TakeAll", relay.ParcelsCaller.Weigh):
            with pytest.raises(UsageError, match="has a stream of messages"):
                callers.publish(method, pb.Receipt())
        callers.publish("Take", pb.Parcel(name="A7"))
        await callers.drain()
        assert (callers.delivered_count, callers.failed_count) == (1, 0)


def test_method_with_a_stream_is_not_published_to_blocking_callers(cases: Cases) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    callers: relayrpc.CallbackSet[Any] = relayrpc.CallbackSet(relay.ParcelsCallerSync)

    class Watched(ParcelsSync):
        def Take(self, request: Any, context: Any) -> Any:
            callers.add(context)
            return pb.Receipt()

    with hub_thread() as hub:
        server = relayrpc.server(hub.url(ADDRESS))
        relay.add_ParcelsServicerSync_to_server(Watched(cases), server)
        server.start()
        callbacks = [(relay.add_ParcelsServicerSync_to_server, ParcelsSync(cases))]
        with relayrpc.channel(hub.url(ADDRESS), callbacks=callbacks) as channel:
            relay.ParcelsCallerSync(channel).Take(pb.Parcel())
            with pytest.raises(UsageError, match="Give has a stream of messages"):
                callers.publish("Give", pb.Receipt())
            callers.publish("Take", pb.Parcel(name="A7"))
            callers.drain()
            assert (callers.delivered_count, callers.failed_count) == (1, 0)
        server.stop(None).wait()


async def test_plain_stubs_work_beside_it_on_one_channel_and_server(cases: Cases) -> None:
    pb, relay, plain = cases.shapes_pb2, cases.shapes_relay, cases.shapes_pb2_grpc

    class Shelves(plain.ShelvesServicer):
        async def Count(self, request: Any, context: Any) -> Any:
            return pb.Parcel.Size(number=request.number)

    def add(server: Any) -> None:
        relay.add_ParcelsServicer_to_server(Parcels(cases), server)
        plain.add_ShelvesServicer_to_server(Shelves(), server)

    async with relayed(add) as channel:
        parcel = pb.Parcel(name="abc")
        assert (await relay.ParcelsCaller(channel).Take(parcel)).number == 3
        assert (await plain.ParcelsStub(channel).Take(parcel)).number == 3
        assert (await plain.ShelvesStub(channel).Count(pb.Receipt(number=4))).number == 4
        with pytest.warns(DeprecationWarning, match="Shelves is deprecated"):
            shelves = relay.ShelvesCaller(channel)
        assert (await shelves.Count(pb.Receipt(number=5))).number == 5


async def test_metadata_reaches_the_servicer(cases: Cases) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    told: list[Any] = []

    class Curious(Parcels):
        async def Take(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
            told.extend(context.invocation_metadata() or ())
            return self.pb.Receipt()

    def add(server: Any) -> None:
        relay.add_ParcelsServicer_to_server(Curious(cases), server)

    async with relayed(add) as channel:
        await relay.ParcelsCaller(channel).Take(pb.Parcel(), metadata=(("k", "v"),))
    assert ("k", "v") in told


@pytest.mark.parametrize("place", [direct, relayed])
async def test_default_timeout_counts_where_the_caller_says_nothing(
    cases: Cases, place: Any
) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay

    def add(server: Any) -> None:
        relay.add_ParcelsServicer_to_server(Parcels(cases), server)

    async with place(add) as channel:
        parcels = relay.ParcelsCaller(channel)
        # grpcio rounds up.
        for options, least_s, most_s in (({}, 0, 21), ({"timeout": 600}, 21, 601)):
            call = parcels.Take(pb.Parcel(name="a"), **options)
            remaining_s = dict(await call.trailing_metadata())["remaining"]
            assert least_s < float(remaining_s) <= most_s


async def test_call_waits_for_a_host_where_it_is_told_to(cases: Cases) -> None:
    pb, relay = cases.shapes_pb2, cases.shapes_relay
    async with run_hub() as hub:
        parcels = relay.ParcelsCaller(hub.channel(ADDRESS))
        with pytest.raises(relayrpc.aio.RpcError, match="no host"):
            await parcels.Take(pb.Parcel(name="a"))
        call = parcels.Take(pb.Parcel(name="a"), timeout=60, wait_for_ready=True)
        server = hub.server(ADDRESS)
        relay.add_ParcelsServicer_to_server(Parcels(cases), server)
        await server.start()
        assert (await call).number == 1


async def test_fingerprint_is_the_one_that_the_host_announces(cases: Cases) -> None:
    relay = cases.shapes_relay
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        relay.add_ParcelsServicer_to_server(Parcels(cases), server)
        await server.start()
        found = await ask_contract(
            hub.channel("$hub"), ADDRESS, relay.ParcelsContract.name
        )
        assert found.fingerprint == relay.ParcelsContract.fingerprint
        assert found.descriptor_set == relay.ParcelsContract.descriptor_set


async def test_contract_says_what_the_proto_does(cases: Cases) -> None:
    options = cases.shapes_relay.ParcelsContract.options
    assert options.address == ADDRESS
    assert options.operations["Take"].default_timeout_s == 20.5
    assert options.operations["Give"].default_timeout_s == 40


async def test_servicer_without_a_method_cannot_be_added(cases: Cases) -> None:
    with pytest.raises(AttributeError, match="'object' object has no attribute 'Take'"):
        cases.shapes_relay.add_ParcelsServicer_to_server(object(), grpc.aio.server())
