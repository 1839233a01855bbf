"""The relay: `relayrpc hub`, a host and callers, each in its own process, over one carrier."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal

from benchmarks.services import GRPCCaller, add_services
from benchmarks.side import Service, Side
from relayrpc import aio


if TYPE_CHECKING:
    from benchmarks.harness import Process, Processes


__all__ = ["Relay", "start_hub"]

ADDRESS: Final = "bench/echo"


async def start_hub(processes: Processes, *options: str) -> tuple[Process, int, int]:
    """Start a hub on free ports; returns it with its gRPC and its HTTP port."""
    argv = (sys.executable, "-m", "relayrpc", "hub")
    ports = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    hub = await processes.start_program("hub", *argv, *ports, *options)
    found = await hub.line_matching(r"listening: grpc 127\.0\.0\.1:(\d+), http 127\.0\.0\.1:(\d+)")
    return hub, int(found[1]), int(found[2])


class Relay(Side):
    """One carrier, pinned at both ends."""

    def __init__(self, carrier: Literal["websocket", "grpc"]) -> None:
        self.name = carrier  # type: ignore[misc]  # The same class is two sides.
        self._carrier = carrier

    async def start(self, processes: Processes) -> Service:
        """Start a hub, then the host that dials it."""
        hub, grpc_port, http_port = await start_hub(processes)
        port = http_port if self._carrier == "websocket" else grpc_port
        scheme = "ws" if self._carrier == "websocket" else "relay"
        url = f"{scheme}://127.0.0.1:{port}/{ADDRESS}"
        host = await processes.start_worker("relay host", "benchmarks.host", self.name, url)
        pids = {"hub": hub.pid, "host": host.pid}
        return Service(side=self, url=url, host="127.0.0.1", port=port, pids=pids)

    async def serve(self, url: str) -> str:
        """Dial the hub and announce the address."""
        self._server = aio.server(url, carrier=self._carrier)
        add_services(self._server)
        await self._server.start()
        return url

    async def connect(self, url: str) -> GRPCCaller:
        """Open a channel."""
        caller = GRPCCaller(aio.channel(url, carrier=self._carrier))
        await caller.check()
        return caller
