"""
The greeter's host: an ordinary grpc servicer that opens no port, and dials out to a hub instead.

    python -m samples.greeter.host relay://127.0.0.1:7350/contoso/greeter
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator

import grpc

import relayrpc.aio
from samples.greeter import greeter_pb2, greeter_pb2_grpc


__all__ = ["Greeter", "serve"]

DEFAULT_URL = "relay://127.0.0.1:7350/contoso/greeter"
GRACE_S = 30.0


class Greeter(greeter_pb2_grpc.GreeterServicer):
    """Greets in all four shapes."""

    async def SayHello(
        self, request: greeter_pb2.HelloRequest, context: grpc.aio.ServicerContext
    ) -> greeter_pb2.HelloReply:
        return greeter_pb2.HelloReply(message=f"Hello, {request.name}")

    async def ListGreetings(
        self, request: greeter_pb2.ListGreetingsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[greeter_pb2.HelloReply]:
        for number in range(1, request.count + 1):
            yield greeter_pb2.HelloReply(message=f"Hello, {request.name}", number=number)
            if request.pause_ms:
                await asyncio.sleep(request.pause_ms / 1000)

    async def CollectNames(
        self,
        request_iterator: AsyncIterator[greeter_pb2.HelloRequest],
        context: grpc.aio.ServicerContext,
    ) -> greeter_pb2.HelloReply:
        names = [request.name async for request in request_iterator]
        return greeter_pb2.HelloReply(message=f"Hello, {' and '.join(names)}")

    async def Chat(
        self,
        request_iterator: AsyncIterator[greeter_pb2.ChatLine],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[greeter_pb2.ChatLine]:
        async for line in request_iterator:
            yield greeter_pb2.ChatLine(text=f"you said: {line.text}")


async def serve(url: str) -> None:
    """Serve the greeter at the URL's address until SIGTERM or Ctrl-C, then let calls finish."""
    server = relayrpc.aio.server(url)
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    print("serving samples.greeter.v1.Greeter, no port opened", flush=True)
    terminated = asyncio.ensure_future(server.wait_for_termination())
    # Windows has no such signal.
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.cancel)
    try:
        await terminated
    except asyncio.CancelledError:
        # From here on the hub gives new calls to other hosts.
        await server.stop(GRACE_S)


def main() -> None:
    # What the link does (which carrier it runs on, when it moves or resumes) is logged at INFO.
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL))


if __name__ == "__main__":
    main()
