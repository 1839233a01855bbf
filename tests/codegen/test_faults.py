"""
Generated fault classes at work. Goal: what a servicer raises is what a caller catches, with every
field. Method: an async and a blocking servicer behind a hub, and generated callers.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import relayrpc
from relayrpc.testing import run_hub
from tests.support.blocking import hub_thread
from tests.support.generated import Cases


pytestmark = pytest.mark.integration

ADDRESS = "contoso/shop"


def out_of_stock(cases: Cases) -> Any:
    pb = cases.faults_pb2
    return cases.faults_relay.OutOfStockFault(
        sku="A7",
        wanted=3,
        left=-1,
        weight=0.5,
        is_final=True,
        token=b"\xff",
        size=pb.OutOfStock.SIZE_LARGE,
        sizes=["SIZE_LARGE", 0],
        price=cases.left.money_pb2.Money(units=7),
        others=[pb.Order(sku="A8")],
        by_name={"A9": pb.Order(sku="A9")},
        names={1: "one"},
        at=Timestamp(seconds=5),
        code=grpc.StatusCode.NOT_FOUND,
        reason="none left",
    )


class Shop:
    """Serves cases.faults.Shop."""

    def __init__(self, cases: Cases) -> None:
        self.cases = cases

    async def Buy(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        raise out_of_stock(self.cases)

    async def List(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        yield self.cases.faults_pb2.Receipt()
        raise self.cases.faults_relay.NamesFault(code_=7, reason_="r", str="s", field_private="p")

    async def Cancel(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        raise out_of_stock(self.cases)


class ShopSync:
    """The same for threads."""

    def __init__(self, cases: Cases) -> None:
        self.cases = cases

    def Buy(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise out_of_stock(self.cases)

    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield self.cases.faults_pb2.Receipt()
        raise self.cases.faults_relay.NamesFault(code_=7, reason_="r", str="s", field_private="p")

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise out_of_stock(self.cases)


def check_out_of_stock(cases: Cases, fault: Any) -> None:
    assert fault.detail == out_of_stock(cases).detail
    assert list(fault.detail.sizes) == [1, 0]
    assert not fault.detail.HasField("said")
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    assert fault.details() == "none left"


def check_names(fault: Any) -> None:
    detail = fault.detail
    assert (detail.code, detail.reason, detail._private) == (7, "r", "p")
    assert (detail.str, detail.id) == ("s", "")
    assert fault.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert fault.details() == "names"


async def test_async_caller_catches_what_async_servicer_raises(cases: Cases) -> None:
    pb, relay = cases.faults_pb2, cases.faults_relay
    async with run_hub() as hub:
        server = hub.server(ADDRESS)
        relay.add_ShopServicer_to_server(Shop(cases), server)
        await server.start()
        shop = relay.ShopCaller(hub.channel(ADDRESS))
        with pytest.raises(relay.OutOfStockFault) as caught:
            await shop.Buy(pb.Order())
        check_out_of_stock(cases, caught.value)
        with pytest.raises(relay.NamesFault) as named:
            async for _ in shop.List(pb.Order()):
                pass
        check_names(named.value)
        # Its contract is strict: this operation declares none.
        with pytest.raises(relayrpc.aio.RpcError, match="the handler failed") as other:
            await shop.Cancel(pb.Order())
        assert not isinstance(other.value, relayrpc.Fault)


def test_blocking_caller_catches_what_blocking_servicer_raises(cases: Cases) -> None:
    pb, relay = cases.faults_pb2, cases.faults_relay
    with hub_thread() as hub, ThreadPoolExecutor(2) as pool:
        server = relayrpc.server(hub.url(ADDRESS), pool)
        relay.add_ShopServicerSync_to_server(ShopSync(cases), server)
        server.start()
        with relayrpc.channel(hub.url(ADDRESS)) as channel:
            shop = relay.ShopCallerSync(channel)
            with pytest.raises(relay.OutOfStockFault) as caught:
                shop.Buy(pb.Order())
            check_out_of_stock(cases, caught.value)
            with pytest.raises(relay.NamesFault) as named:
                list(shop.List(pb.Order()))
            check_names(named.value)
        server.stop(None).wait()


def test_class_of_a_message_that_no_program_can_name_makes_it_all_the_same(cases: Cases) -> None:
    relay = importlib.import_module("cases.class.import_relay")
    fault = relay.ClassFault(from_="here")
    assert fault.detail.DESCRIPTOR.full_name == "cases.class.class"
    assert getattr(fault.detail, "from") == "here"
    assert fault.details() == "class"
    assert relay.ClassNoneFault(lambda_=3).to_status().details == "none"


def test_class_has_the_documentation_of_its_message(cases: Cases) -> None:
    text = cases.faults_relay.OutOfStockFault.__doc__
    assert " ".join(text.split()) == (
        "The fault cases.faults.OutOfStock. There are not as many as were wanted. More come later."
    )
    nested = cases.faults_relay.OrderClosedFault.__doc__
    assert "Nothing is sold any more." in nested
