"""
A host that records what it was asked to do: `python -m tests.integration.recorder URL CARRIER`.

Serves bytes in all four shapes, and tells on request how often each call was executed and what its
process holds. Prints a line when it is registered. Also runs inside a test's own process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio

import relayrpc.aio
from relayrpc.link.call import Call
from tests.integration.watched_hub import sockets_count


__all__ = ["SERVICE", "Recorder", "calls_count", "memory_kib"]

SERVICE = "tests.Recorder"


class Recorder:
    """The servicer."""

    def __init__(self) -> None:
        self.executed: Counter[bytes] = Counter()
        """Name of each call -> how often its handler ran."""
        self.cancelled: set[bytes] = set()
        """Names of the calls whose handler was cancelled."""
        self.entered = asyncio.Condition()
        """Told whenever a handler starts or is cancelled."""
        self.released = asyncio.Event()
        """Lets `hold` calls return."""

    def handlers(self, service: str = SERVICE) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            service,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Hold": grpc.unary_unary_rpc_method_handler(self.hold),
                "Block": grpc.unary_unary_rpc_method_handler(self.block),
                "Report": grpc.unary_unary_rpc_method_handler(self.report),
                "Exchange": grpc.unary_unary_rpc_method_handler(self.exchange),
            },
        )

    async def echo(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await self._note(request)
        return request

    async def count(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        """b"name messages step": message k once k * step more calls were executed here."""
        name, messages, step = request.split()
        await self._note(name)
        before = self.executed.total()
        for number in range(int(messages)):
            due = before + number * int(step)
            async with self.entered:
                await self.entered.wait_for(lambda due=due: self.executed.total() >= due)
            yield b"%s %d" % (name, number)

    async def collect(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> bytes:
        received = [request async for request in requests]
        await self._note(received[0].split()[0])
        return b",".join(received)

    async def chat(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        is_first = True
        async for request in requests:
            if is_first:
                await self._note(request.split()[0])
                is_first = False
            yield request

    async def hold(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Return once released."""
        await self._note(request)
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.add(request)
            async with self.entered:
                self.entered.notify_all()
            raise
        return request

    async def exchange(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """b"count ...": answer with so many bytes."""
        return bytes(int(request.split(maxsplit=1)[0]))

    async def block(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Keep the loop from everything else, for good."""
        threading.Event().wait()
        return b""

    async def report(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        gc.collect()
        report = {
            "executed": len(self.executed),
            "doubled": [name.decode() for name, count in self.executed.items() if count > 1],
            "cancelled": [name.decode() for name in self.cancelled],
            "tasks": len(asyncio.all_tasks()),
            "sockets": sockets_count(),
            "calls": calls_count(),
            "memory_kib": memory_kib(),
        }
        return json.dumps(report).encode()

    async def was_entered(self, name: bytes) -> None:
        """Wait until the handler of this call has started."""
        async with self.entered:
            await self.entered.wait_for(lambda: self.executed[name])

    async def was_cancelled(self, name: bytes) -> None:
        """Wait until the handler of this call was cancelled."""
        async with self.entered:
            await self.entered.wait_for(lambda: name in self.cancelled)

    async def _note(self, name: bytes) -> None:
        self.executed[name] += 1
        async with self.entered:
            self.entered.notify_all()


def calls_count() -> int:
    """Call objects of the link core that are alive in this process."""
    return sum(type(each) is Call for each in gc.get_objects())


def memory_kib(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Resident memory of a process: what it has now, or with "VmHWM" the most it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")


async def _serve(url: str, carrier: str, service: str) -> None:
    server = relayrpc.aio.server(url, carrier=carrier)  # type: ignore[arg-type]  # checked there
    server.add_generic_rpc_handlers((Recorder().handlers(service),))
    await server.start()
    sys.stdout.write("registered\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
