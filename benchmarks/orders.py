"""
An order of 2 KiB, as a message and as its bytes: a stub and raw methods, each way.

Owns: what is sent both ways, so that the two differ in nothing but who encodes it.
Source: benchmarks/bench.proto.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from benchmarks import bench_pb2, bench_pb2_grpc


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


__all__ = ["ORDER", "Orders", "order_calls", "raw_handlers"]

ITEMS_COUNT: Final = 34
ORDER: Final = bench_pb2.Order(
    id="order-2026-000017",
    customer="Contoso Wholesale, Warehouse 4",
    placed_at_ms=1_790_000_000_000,
    items=[
        bench_pb2.Item(
            sku=f"CTS-{number:06}-EU",
            title="A4 paper, 80 g, white, 500 sheets",
            quantity=number + 1,
            price_cents=100_000 + number,
        )
        for number in range(ITEMS_COUNT)
    ],
    labels={"channel": "web", "region": "eu-west"},
)
"""2 KiB on the wire, in the many small fields that messages have."""
ORDER_ID: Final = bench_pb2.OrderId(id=ORDER.id)
ORDER_BYTES: Final = ORDER.SerializeToString()
ORDER_ID_BYTES: Final = ORDER_ID.SerializeToString()


class Orders(bench_pb2_grpc.OrdersServicer):
    """The generated service."""

    async def Put(
        self, request: bench_pb2.Order, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bench_pb2.OrderId:
        """Take an order."""
        return bench_pb2.OrderId(id=request.id)

    async def Get(
        self, request: bench_pb2.OrderId, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bench_pb2.Order:
        """Return one; it is encoded anew each time."""
        return ORDER


async def put(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Take the bytes of an order."""
    return ORDER_ID_BYTES


async def get(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Return them."""
    return ORDER_BYTES


def raw_handlers() -> dict[str, grpc.RpcMethodHandler]:
    """Make the handlers of the raw methods, by method."""
    return {
        "Put": grpc.unary_unary_rpc_method_handler(put),
        "Get": grpc.unary_unary_rpc_method_handler(get),
    }


def order_calls(
    channel: grpc.aio.Channel, service: str, options: Mapping[str, Any]
) -> dict[str, Callable[[], Awaitable[Any]]]:
    """
    Return what makes a call, by name: "stub_put", "stub_get", "raw_put", "raw_get".

    Args:
        channel: Where to.
        service: The one that has the raw methods.
        options: Keywords of every call.
    """
    # What grpcio-tools writes has no annotations.
    stub = bench_pb2_grpc.OrdersStub(channel)  # type: ignore[no-untyped-call]
    return {
        "stub_put": partial(stub.Put, ORDER, **options),
        "stub_get": partial(stub.Get, ORDER_ID, **options),
        "raw_put": partial(channel.unary_unary(f"/{service}/Put"), ORDER_BYTES, **options),
        "raw_get": partial(channel.unary_unary(f"/{service}/Get"), ORDER_ID_BYTES, **options),
    }
