"""What generated code stands on. Goal: code of another time is told so. Method: made by hand."""

from __future__ import annotations

import grpc.aio
import pytest

from relayrpc import typed
from relayrpc.errors import UsageError
from samples.orders import orders_pb2


CONTRACT = typed.Contract(orders_pb2.DESCRIPTOR, "OrderEvents")


@pytest.mark.parametrize(
    ("handlers", "odd"),
    [
        ({}, "Shipped"),
        ({"Shipped": print, "Lost": print}, "Lost"),
        ({"Lost": print}, "Lost, Shipped"),
    ],
)
async def test_module_of_another_contract_is_refused(handlers: typed.Handlers, odd: str) -> None:
    with pytest.raises(UsageError) as refused:
        typed.add_to_server(grpc.aio.server(), CONTRACT, handlers)
    assert str(refused.value) == (
        "samples.orders.v1.OrderEvents has other methods in samples/orders/orders.proto than in "
        f"the module generated from it ({odd}); generate all code anew"
    )
