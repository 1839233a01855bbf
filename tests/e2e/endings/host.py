"""
The host of a scene: `python -m tests.e2e.endings.host CONFIG`. Its handlers say what becomes of
them, and go on when they are told to.

It serves at several addresses, each over a link of its own. SIGTERM: it drains, as a host should.
Says: started, finished, cancelled; received (the first request of a stream); handed, dropped
(a call whose handler is held back before it starts); disordered, which never should be.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio

import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS
from tests.e2e.endings.lines import hear, say


__all__ = ["MESSAGES", "SERVICE", "numbered"]

SERVICE: Final = "tests.Endings"
MESSAGES: Final = 96
"""Of a stream: more than fits between a reader that stopped and its writer."""
_MESSAGE_BYTES: Final = 16 * 1024
_CALL_KEY: Final = "call"
_GRACE_S: Final = 60.0


def numbered(number: int) -> bytes:
    """One message of a stream."""
    return number.to_bytes(4, "big") + bytes(_MESSAGE_BYTES)


class Endings:
    """The servicer."""

    def __init__(self) -> None:
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """By the call's name: what it waits for, in its handler or before that."""

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Hold": grpc.unary_unary_rpc_method_handler(self.hold),
                "Feed": grpc.unary_stream_rpc_method_handler(self.feed),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            },
        )

    async def hold(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        call = _call_of(context.invocation_metadata())
        with _recorded(call):
            await self.gates[call].wait()
        return request

    async def feed(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        with _recorded(_call_of(context.invocation_metadata())):
            for number in range(MESSAGES):
                yield numbered(number)

    async def collect(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> bytes:
        call = _call_of(context.invocation_metadata())
        count = 0
        with _recorded(call):
            async for request in requests:
                if request != numbered(count):
                    say("disordered", call=call)
                count += 1
                if count == 1:
                    say("received", call=call)
                    await self.gates[call].wait()
        return str(count).encode()


class HoldBack(grpc.aio.ServerInterceptor):
    """Keeps calls from their handlers: they are handed to the host, and not started."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        call = _call_of(handler_call_details.invocation_metadata)
        say("handed", call=call)
        try:
            await self._endings.gates[call].wait()
        except asyncio.CancelledError:
            say("dropped", call=call)
            raise
        return await continuation(handler_call_details)


@contextmanager
def _recorded(call: str) -> Iterator[None]:
    say("started", call=call)
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        say("cancelled", call=call)
        raise
    say("finished", call=call)


def _call_of(metadata: Any) -> str:
    return next(value for key, value in metadata if key == _CALL_KEY)


async def _main(config: dict[str, Any]) -> None:
    endings = Endings()
    limits = dataclasses.replace(DEFAULT_LIMITS, **config["limits"])
    servers = []
    for entry in config["servers"]:
        server = relayrpc.aio.server(
            entry["url"],
            carrier=config["carrier"],
            instance=entry["instance"],
            slots=entry.get("slots", 0),
            interceptors=[HoldBack(endings)] if entry.get("holds_back") else None,
            limits=limits,
        )
        server.add_generic_rpc_handlers((endings.handlers(),))
        await server.start()
        servers.append(server)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    obeying = asyncio.create_task(_obey(endings, stop))
    say("serving")
    await stop.wait()
    if obeying.done():
        # The test has seen enough.
        return
    draining = [asyncio.create_task(server.stop(_GRACE_S)) for server in servers]
    await asyncio.sleep(0)
    say("draining")
    await asyncio.wait(draining)


async def _obey(endings: Endings, stop: asyncio.Event) -> None:
    async for command in hear():
        endings.gates[command["call"]].set()
    stop.set()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
