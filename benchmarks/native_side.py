"""A plain grpc.aio client that calls the hub's gRPC port; the host is where it likes to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from benchmarks.relay_side import start_hub
from benchmarks.services import GRPCCaller, add_services
from benchmarks.side import ADDRESS, Service, Side
from relayrpc import aio


if TYPE_CHECKING:
    from benchmarks.harness import Processes


__all__ = ["Native"]


class Native(Side):
    """The hub as any gRPC client sees it: nothing of ours in the caller's process."""

    name = "native"

    async def start(self, processes: Processes) -> Service:
        """Start a hub, then the host that dials it."""
        hub = await start_hub(processes)
        url = f"relay://127.0.0.1:{hub.grpc_port}/{ADDRESS}"
        host = await processes.start_worker("relay host", "benchmarks.host", self.name, url)
        return Service(
            side=self,
            url=f"127.0.0.1:{hub.grpc_port}",
            host="127.0.0.1",
            port=hub.grpc_port,
            pids={"hub": hub.pid, "host": host.pid},
        )

    async def serve(self, url: str) -> str:
        """Dial the hub and announce the address, over the carrier of the defaults."""
        self._server = aio.server(url)
        add_services(self._server)
        await self._server.start()
        return url

    async def connect(self, url: str) -> GRPCCaller:
        """Open a channel with a connection of its own; by default a process shares one."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        channel = grpc.aio.insecure_channel(url, options)
        caller = GRPCCaller(channel, metadata=(("relay-address", ADDRESS),))
        await caller.check()
        return caller
