"""
Generated callers with a session of their own at work. Goal: a block is a session, in both colours,
and says what stands in its way. Method: the sample's contract and servicer, behind a hub.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import relayrpc
import relayrpc.aio
from relayrpc import SessionState, typed
from relayrpc.errors import UsageError
from relayrpc.testing import run_hub
from samples.orders import host
from samples.orders import orders_pb2 as pb
from samples.orders.orders_relay import (
    OrdersCallerSync,
    OrdersSession,
    OrdersSessionSync,
    OutOfStockFault,
    add_OrderEventsServicer_to_server,
    add_OrderEventsServicerSync_to_server,
    add_OrdersServicer_to_server,
)
from tests.support.blocking import HubThread, hosting, hub_thread
from tests.support.generated import Cases
from tests.support.until import until


pytestmark = pytest.mark.integration

ADDRESS = "contoso/orders"


@pytest.fixture
def relay_hub() -> Iterator[HubThread]:
    with hub_thread() as hub:
        yield hub


class Customer:
    def __init__(self) -> None:
        self.shipped: list[str] = []

    async def Shipped(self, request: pb.Receipt, context: Any) -> pb.ShippedResponse:
        self.shipped.append(request.item)
        return pb.ShippedResponse()


class CustomerSync:
    def __init__(self) -> None:
        self.shipped: list[str] = []

    def Shipped(self, request: pb.Receipt, context: Any) -> pb.ShippedResponse:
        self.shipped.append(request.item)
        return pb.ShippedResponse()


def add_orders(server: grpc.aio.Server) -> None:
    add_OrdersServicer_to_server(relayrpc.servicer(host.Orders), server)


@asynccontextmanager
async def ordering(customer: Customer) -> AsyncIterator[relayrpc.aio.Channel]:
    """A channel to a host that serves orders."""
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        add_orders(server)
        await server.start()
        callbacks = [typed.Callback(add_OrderEventsServicer_to_server, customer)]
        yield hub.channel(ADDRESS, callbacks=callbacks)


async def test_block_is_a_session() -> None:
    customer = Customer()
    async with ordering(customer) as channel:
        async with OrdersSession(channel) as orders:
            assert orders.session.state is SessionState.CREATED
            await orders.Open(pb.OpenRequest(customer="Ada"))
            assert orders.session.state is SessionState.OPENED
            await orders.Place(pb.Order(item="tea", count=2))
            with pytest.raises(OutOfStockFault):
                await orders.Place(pb.Order(item="cups", count=5))
            receipts = [each.item async for each in orders.List(pb.ListRequest())]
        assert orders.session.state is SessionState.CLOSED
    assert customer.shipped == receipts == ["tea"]


async def test_block_that_is_left_by_an_exception_raises_it() -> None:
    async with ordering(Customer()) as channel:
        with pytest.raises(KeyError):
            async with OrdersSession(channel) as orders:
                await orders.Open(pb.OpenRequest())
                raise KeyError
        assert orders.session.state is SessionState.CLOSED


def test_blocking_block_is_a_session(relay_hub: HubThread) -> None:
    customer = CustomerSync()
    callbacks = [typed.Callback(add_OrderEventsServicerSync_to_server, customer)]
    with (
        hosting(relay_hub, "async", add_orders),
        relayrpc.channel(relay_hub.url(), callbacks=callbacks) as channel,
    ):
        with OrdersSessionSync(channel) as orders:
            orders.Open(pb.OpenRequest(customer="Ada"))
            orders.Place(pb.Order(item="tea", count=2))
            assert [each.number for each in orders.List(pb.ListRequest())] == [1]
            assert orders.session.state is SessionState.OPENED
        assert orders.session.state is SessionState.CLOSED
        with pytest.raises(KeyError), OrdersSessionSync(channel) as orders:
            orders.Open(pb.OpenRequest())
            raise KeyError
        assert orders.session.state is SessionState.CLOSED
    assert customer.shipped == ["tea"]


async def test_channel_without_the_callback_of_the_contract_opens_no_session() -> None:
    async with run_hub() as hub:
        async with OrdersSession(hub.channel(ADDRESS)) as orders:
            with pytest.raises(relayrpc.aio.RpcError) as caught:
                await orders.Open(pb.OpenRequest())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert not caught.value.may_have_executed
        assert caught.value.details() == (
            "samples.orders.v1.Orders calls samples.orders.v1.OrderEvents back, which this channel "
            "does not serve; make it with callbacks=[(add_..._to_server, servicer)]"
        )


def test_blocking_channel_without_the_callback_of_the_contract_opens_no_session(
    relay_hub: HubThread,
) -> None:
    with (
        relayrpc.channel(relay_hub.url()) as channel,
        OrdersSessionSync(channel) as orders,
        pytest.raises(relayrpc.RpcError, match=r"calls samples\.orders\.v1\.OrderEvents back"),
    ):
        orders.Open(pb.OpenRequest())


async def test_channel_of_grpcio_has_no_sessions() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(UsageError, match=r"has no sessions; .* relayrpc\.aio\.channel\(\)"):
            OrdersSession(channel)  # type: ignore[arg-type]  # that is the mistake
    with (
        grpc.insecure_channel("127.0.0.1:1") as blocking,
        pytest.raises(UsageError, match=r"has no sessions; .* relayrpc\.channel\(\)"),
    ):
        OrdersSessionSync(blocking)  # type: ignore[arg-type]  # that is the mistake


async def test_one_way_call_waits_for_the_host_where_it_is_told_to() -> None:
    go_on = asyncio.Event()
    began: list[str] = []

    class SlowOrders(host.Orders):
        async def Note(self, request: pb.Remark, context: Any) -> Any:
            began.append(request.text)
            await go_on.wait()
            return await super().Note(request, context)

    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        servicer = relayrpc.service(instances="per_session", concurrency="multiple")(SlowOrders)
        add_OrdersServicer_to_server(relayrpc.servicer(servicer), server)
        await server.start()
        callbacks = [(add_OrderEventsServicer_to_server, Customer())]
        async with OrdersSession(hub.channel(ADDRESS, callbacks=callbacks)) as orders:
            await orders.Open(pb.OpenRequest())
            await orders.Note(pb.Remark(text="1"))
            await orders.Note(pb.Remark(text="2"), confirm="hub", metadata=[("k", "v")])
            waiting = orders.Note(pb.Remark(text="3"), confirm="host")
            await until(lambda: began == ["1", "2", "3"])
            assert not waiting.done()
            go_on.set()
            await waiting
            with pytest.raises(grpc.aio.UsageError, match="relay-confirm"):
                await orders.Note(pb.Remark(), confirm="soon")  # type: ignore[arg-type]
            with pytest.raises(grpc.aio.UsageError, match="given twice"):
                orders.Note(pb.Remark(), confirm="host", metadata=[("relay-confirm", "hub")])
            invoice = await orders.Close(pb.CloseRequest())
    assert list(invoice.remarks) == ["1", "2", "3"]


def test_blocking_one_way_call_waits_for_the_host_where_it_is_told_to(
    relay_hub: HubThread,
) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Orders(host.Orders):
        def Note(self, request: pb.Remark, context: Any) -> Any:  # type: ignore[override]
            began.set()
            go_on.wait()
            raise KeyError(request.text)

    def add(server: grpc.aio.Server) -> None:
        servicer = relayrpc.service(instances="per_session", concurrency="multiple")(Orders)
        add_OrdersServicer_to_server(relayrpc.servicer(servicer), server)

    callbacks = [(add_OrderEventsServicerSync_to_server, CustomerSync())]
    with (
        hosting(relay_hub, "async", add),
        relayrpc.channel(relay_hub.url(), callbacks=callbacks) as channel,
        channel.session() as session,
    ):
        orders = OrdersCallerSync(session)
        orders.Open(pb.OpenRequest())
        orders.Note(pb.Remark(text="1"))
        began.wait()
        go_on.set()
        with pytest.raises(relayrpc.RpcError) as caught:
            orders.Note(pb.Remark(text="2"), confirm="host")
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


def test_method_called_session_makes_room_for_it(cases: Cases) -> None:
    relay = cases.sessions_relay
    assert callable(relay.TableCaller.session_)
    assert not hasattr(relay.TableSession, "session")
    assert callable(relay.TableSessionCaller.session)


def test_deprecated_contract_says_so_where_it_is_used_and_not_where_it_is_imported(
    cases: Cases,
) -> None:
    with pytest.warns(DeprecationWarning, match=r"cases\.sessions\.Table is deprecated"):
        cases.sessions_relay.TableSession(relayrpc.aio.channel("relay://127.0.0.1:1/a"))
