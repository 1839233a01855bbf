"""Mistakes that a type checker finds in a program that uses a relay; each line says which."""

from __future__ import annotations

from greeter_pb2 import HelloRequest
from greeter_pb2_grpc import GreeterStub

import relayrpc
import relayrpc.aio


async def call() -> None:
    channel = relayrpc.aio.channel(7350)  # error: arg-type
    stub = GreeterStub(channel)
    await stub.SayHello("Ada")  # error: arg-type
    reply = await stub.SayHello(HelloRequest())
    assert reply.no_such_field  # error: attr-defined
    relayrpc.aio.server("relay://hub/a", slot=1)  # error: call-arg
    relayrpc.call_credentials()  # error: call-arg
    relayrpc.aio.server("relay://hub/a", error_handlers=[translate])  # error: list-item
    relayrpc.server("relay://hub/a", strict_faults="yes")  # error: arg-type
    ByHand(7)  # error: arg-type
    relayrpc.inspect_channel(channel, translate)  # error: arg-type


class ByHand(relayrpc.Fault[HelloRequest]):
    """A fault without generated code."""


def translate(error: Exception, context: object) -> int:
    return 7
