"""
The greeter's caller: an ordinary generated stub over the relay's channel, in all four shapes.

    python -m samples.greeter.caller relay://127.0.0.1:7350/contoso/greeter

With a count behind the URL it then reads a stream of that many greetings, and fails if one is
missing, doubled or out of order.
"""

from __future__ import annotations

import asyncio
import sys

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc


__all__ = ["call_all_shapes", "read_long_stream"]

DEFAULT_URL = "relay://127.0.0.1:7350/contoso/greeter"
PAUSE_MS = 3
PROGRESS_EVERY = 250


async def call_all_shapes(stub: greeter_pb2_grpc.GreeterStub) -> None:
    """Call one method of each shape and print what came back."""
    reply = await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))
    print(f"unary          SayHello       {reply.message}")

    request = greeter_pb2.ListGreetingsRequest(name="Ada", count=5)
    numbers = [str(reply.number) async for reply in stub.ListGreetings(request)]
    print(f"server stream  ListGreetings  {' '.join(numbers)}")

    names = [greeter_pb2.HelloRequest(name=name) for name in ("Ada", "Grace", "Edsger")]
    reply = await stub.CollectNames(iter(names))
    print(f"client stream  CollectNames   {reply.message}")

    chat = stub.Chat()
    answers = []
    for text in ("hi", "bye"):
        await chat.write(greeter_pb2.ChatLine(text=text))
        answers.append((await chat.read()).text)
    await chat.done_writing()
    print(f"both ways      Chat           {'; '.join(answers)}", flush=True)


async def read_long_stream(stub: greeter_pb2_grpc.GreeterStub, count: int) -> bool:
    """
    Read a stream of numbered greetings.

    Returns:
        True when exactly 1 to `count` arrived, in order.
    """
    request = greeter_pb2.ListGreetingsRequest(name="Ada", count=count, pause_ms=PAUSE_MS)
    expected = 0
    async for reply in stub.ListGreetings(request):
        expected += 1
        if reply.number != expected:
            print(f"expected greeting {expected}, got {reply.number}", flush=True)
            return False
        if expected % PROGRESS_EVERY == 0:
            print(f"greeting {expected} of {count}", flush=True)
    if expected != count:
        print(f"the stream ended after greeting {expected} of {count}", flush=True)
        return False
    print(f"{count} greetings: none lost, none doubled, all in order", flush=True)
    return True


async def call(url: str, count: int) -> bool:
    """Call everything at `url`; True when nothing was lost."""
    async with relayrpc.aio.channel(url) as channel:
        stub = greeter_pb2_grpc.GreeterStub(channel)
        await call_all_shapes(stub)
        return count == 0 or await read_long_stream(stub, count)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    return 0 if asyncio.run(call(url, count)) else 1


if __name__ == "__main__":
    sys.exit(main())
