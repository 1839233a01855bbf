"""A program on generated fault classes, in which a type checker finds nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, assert_type

from shop_pb2 import Closed, Order, OutOfStock
from shop_relay import ClosedFault, OutOfStockFault, ShopCaller, ShopCallerSync

import relayrpc
import relayrpc.aio
from relayrpc import typed


class Shop:
    async def Buy(self, request: Order, context: typed.ServicerContext) -> Order:
        if request.sku == "A7":
            raise OutOfStockFault(
                sku=request.sku,
                left=None,
                why=OutOfStock.WHY_SOLD,
                others=[Order(sku="A8")],
                stores={"Ghent": 3},
                code=typed.StatusCode.NOT_FOUND,
                reason="none left",
            )
        if request.sku == "A8":
            raise ClosedFault()
        raise OutOfStockFault.from_detail(OutOfStock(sku=request.sku), reason="none left")


async def call(shop: ShopCaller) -> None:
    try:
        await shop.Buy(Order())
    except OutOfStockFault as fault:
        assert_type(fault.detail, OutOfStock)
        assert_type(fault.detail.sku, str)
        assert_type(fault.details(), str)
        assert_type(fault.may_have_executed, bool)
        fault.code()
        assert_type(fault.trailing_metadata(), Collection[tuple[str, str | bytes]])
        if isinstance(fault, relayrpc.aio.RpcError):
            assert_type(fault.may_have_executed, bool)
            fault.trailing_metadata()
    except ClosedFault as fault:
        assert_type(fault.detail, Closed)


def block(shop: ShopCallerSync) -> None:
    try:
        shop.Buy(Order())
    except relayrpc.RpcError as error:
        assert_type(OutOfStockFault.from_error(error), OutOfStockFault | None)
        found = relayrpc.Fault.from_error(error)
        if found is not None:
            assert found.detail.DESCRIPTOR.full_name
    except relayrpc.Fault as fault:
        fault.detail.SerializeToString()
        for key, value in fault.trailing_metadata():
            assert_type(key, str)
            assert_type(value, str | bytes)
        if isinstance(fault, relayrpc.RpcError):
            assert_type(fault.origin, Literal["caller", "hub", "host"])
