"""The greeter sample's service in plain functions, and a blocking caller of all its methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from samples.greeter import greeter_pb2 as pb
from samples.greeter import greeter_pb2_grpc


__all__ = ["PlainGreeter", "check_all_shapes_blocking"]


class PlainGreeter(greeter_pb2_grpc.GreeterServicer):
    """Plain functions and generators."""

    def SayHello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        return pb.HelloReply(message=f"Hello, {request.name}!")

    def ListGreetings(self, request: Any, context: Any) -> Iterator[pb.HelloReply]:
        for number in range(1, request.count + 1):
            yield pb.HelloReply(message=request.name, number=number)

    def CollectNames(self, requests: Iterator[pb.HelloRequest], context: Any) -> pb.HelloReply:
        return pb.HelloReply(message=",".join(request.name for request in requests))

    def Chat(self, requests: Iterator[pb.ChatLine], context: Any) -> Iterator[pb.ChatLine]:
        for line in requests:
            yield pb.ChatLine(text=line.text.upper())


def check_all_shapes_blocking(channel: grpc.Channel) -> None:
    """Call every method of a greeter by its generated stub."""
    stub = greeter_pb2_grpc.GreeterStub(channel)
    ada = pb.HelloRequest(name="Ada")
    assert stub.SayHello(ada).message == "Hello, Ada!"
    response, call = stub.SayHello.with_call(ada, timeout=60)
    assert (response.message, call.code()) == ("Hello, Ada!", grpc.StatusCode.OK)
    assert stub.SayHello.future(ada).result().message == "Hello, Ada!"

    listing = stub.ListGreetings(pb.ListGreetingsRequest(name="Ada", count=300))
    assert [reply.number for reply in listing] == list(range(1, 301))
    assert listing.code() is grpc.StatusCode.OK

    names = [ada, pb.HelloRequest(name="Grace")]
    assert stub.CollectNames(iter(names)).message == "Ada,Grace"
    assert stub.CollectNames.future(iter(names)).result().message == "Ada,Grace"

    lines = [pb.ChatLine(text=str(number)) for number in range(50)]
    assert [line.text for line in stub.Chat(iter(lines))] == [line.text for line in lines]
