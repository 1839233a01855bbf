"""
The orders' host: an object for each session of a customer, who is called back.

    python -m samples.orders.host relay://127.0.0.1:7350/contoso/orders
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

import relayrpc
import relayrpc.aio
from relayrpc.typed import ServicerContext
from samples.orders.orders_pb2 import (
    Account,
    CloseRequest,
    Invoice,
    ListRequest,
    OpenRequest,
    Order,
    Receipt,
    Remark,
)
from samples.orders.orders_relay import (
    OrderEventsCaller,
    OutOfStockFault,
    add_OrdersServicer_to_server,
)


__all__ = ["Orders", "serve"]

DEFAULT_URL = "relay://127.0.0.1:7350/contoso/orders"
GRACE_S = 30.0
STOCK = {"tea": 10, "cups": 4}


# While it waits for the customer's answer it serves the session's other calls.
@relayrpc.service(instances="per_session", concurrency="reentrant")
class Orders:
    """The orders of one session."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.remarks: list[str] = []

    async def Open(self, request: OpenRequest, context: ServicerContext) -> Account:
        return Account(greeting=f"welcome, {request.customer}")

    async def Place(self, request: Order, context: ServicerContext) -> Receipt:
        in_stock = STOCK.get(request.item, 0)
        if request.count > in_stock:
            raise OutOfStockFault(item=request.item, count=in_stock)
        number = len(self.receipts) + 1
        receipt = Receipt(number=number, item=request.item, count=request.count)
        self.receipts.append(receipt)
        await context.callback(OrderEventsCaller).Shipped(receipt)
        return receipt

    async def Note(self, request: Remark, context: ServicerContext) -> Empty:
        self.remarks.append(request.text)
        return Empty()

    async def List(
        self, request: ListRequest, context: ServicerContext
    ) -> AsyncIterator[Receipt]:
        for receipt in self.receipts:
            yield receipt

    async def Close(self, request: CloseRequest, context: ServicerContext) -> Invoice:
        count = sum(receipt.count for receipt in self.receipts)
        return Invoice(count=count, remarks=self.remarks)


async def serve(url: str) -> None:
    """Serve at the URL's address until SIGTERM or Ctrl-C, then let sessions finish their calls."""
    server = relayrpc.aio.server(url)
    add_OrdersServicer_to_server(relayrpc.servicer(Orders), server)
    await server.start()
    print("serving samples.orders.v1.Orders, no port opened", flush=True)
    terminated = asyncio.ensure_future(server.wait_for_termination())
    # Windows has no such signal.
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.cancel)
    try:
        await terminated
    except asyncio.CancelledError:
        await server.stop(GRACE_S)


def main() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL))


if __name__ == "__main__":
    main()
