"""
The orders' caller: a customer who orders within a session, and is told what is shipped.

    python -m samples.orders.caller relay://127.0.0.1:7350/contoso/orders
"""

from __future__ import annotations

import asyncio
import sys

import relayrpc.aio
from relayrpc.typed import Callback, ServicerContext
from samples.orders.orders_pb2 import (
    CloseRequest,
    ListRequest,
    OpenRequest,
    Order,
    Receipt,
    Remark,
    ShippedResponse,
)
from samples.orders.orders_relay import (
    OrdersSession,
    OutOfStockFault,
    add_OrderEventsServicer_to_server,
)


__all__ = ["order"]

DEFAULT_URL = "relay://127.0.0.1:7350/contoso/orders"


class Customer:
    """Serves the callback contract."""

    async def Shipped(self, request: Receipt, context: ServicerContext) -> ShippedResponse:
        print(f"shipped   {request.count} × {request.item}", flush=True)
        return ShippedResponse()


async def order(url: str) -> None:
    """Order twice, and once too much; pay."""
    callbacks = [Callback(add_OrderEventsServicer_to_server, Customer())]
    async with (
        relayrpc.aio.channel(url, callbacks=callbacks) as channel,
        OrdersSession(channel) as orders,
    ):
        account = await orders.Open(OpenRequest(customer="Ada"))
        print(f"opened    {account.greeting}", flush=True)
        for item, count in (("tea", 2), ("cups", 4)):
            receipt = await orders.Place(Order(item=item, count=count))
            print(f"placed    order {receipt.number}", flush=True)
        try:
            await orders.Place(Order(item="cups", count=5))
        except OutOfStockFault as fault:
            print(f"refused   there are {fault.detail.count} × {fault.detail.item}", flush=True)
        await orders.Note(Remark(text="as a present"))
        numbers = [str(each.number) async for each in orders.List(ListRequest())]
        print(f"listed    {' '.join(numbers)}", flush=True)
        invoice = await orders.Close(CloseRequest())
        print(f"closed    {invoice.count} things, {invoice.remarks[0]}", flush=True)


def main() -> None:
    asyncio.run(order(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL))


if __name__ == "__main__":
    main()
