"""Mistakes in a program on generated fault classes; each line says which."""

from __future__ import annotations

from shop_pb2 import Order
from shop_relay import OutOfStockFault

import relayrpc
import relayrpc.aio


class ByHand(relayrpc.Fault[Order]):
    """Without generated code."""


def make() -> None:
    OutOfStockFault(sku=7)  # error: arg-type
    OutOfStockFault(price=7)  # error: call-arg
    OutOfStockFault(others=[7])  # error: list-item
    OutOfStockFault(stores={1: 1})  # error: dict-item
    OutOfStockFault(sku="A7", code=5)  # error: arg-type, with types-grpcio
    OutOfStockFault("A7")  # error: call-arg
    OutOfStockFault.from_detail(Order())  # error: arg-type
    ByHand(7)  # error: arg-type


def catch(error: Exception, fault: OutOfStockFault) -> None:
    assert OutOfStockFault.from_error(error).detail  # error: union-attr
    assert fault.detail.price  # error: attr-defined
    fault.initial_metadata()  # error: attr-defined
    if isinstance(fault, relayrpc.aio.RpcError):
        fault.nothing()  # error: attr-defined, with types-grpcio
    if isinstance(fault, relayrpc.RpcError):
        fault.nothing()  # error: attr-defined, with types-grpcio
    fault.trailing_metadata()["left"]  # error: index
