"""The side that everything is measured against: grpc.aio server and channel, nothing between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio

from benchmarks.services import GRPCCaller, add_services
from benchmarks.side import Service, Side


if TYPE_CHECKING:
    from benchmarks.harness import Processes


__all__ = ["Direct"]


class Direct(Side):
    """Plain grpc.aio."""

    name = "direct"

    async def start(self, processes: Processes) -> Service:
        """Start the server."""
        server = await processes.start_worker("direct server", "benchmarks.host", self.name, "")
        host, port = server.ready["url"].rsplit(":", 1)
        pids = {"host": server.pid}
        return Service(side=self, url=server.ready["url"], host=host, port=int(port), pids=pids)

    async def serve(self, url: str) -> str:
        """Listen on a free port."""
        self._server = grpc.aio.server()
        add_services(self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def connect(self, url: str) -> GRPCCaller:
        """Open a channel with a connection of its own; by default a process shares one."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        caller = GRPCCaller(grpc.aio.insecure_channel(url, options))
        await caller.check()
        return caller
