"""The relay: `relayrpc hub`, a host and callers, each in its own process, over one carrier."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from benchmarks.services import SERVICE, GRPCCaller, add_services
from benchmarks.side import ADDRESS, Service, Side, at
from relayrpc import aio
from relayrpc.carrier.tls import TLSOptions
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from benchmarks.certificates import Certificates
    from benchmarks.harness import Processes


__all__ = ["CA_VARIABLE", "Relay", "RunningHub", "start_hub"]

CA_VARIABLE: Final = "BENCHMARK_CA_FILE"
"""Environment variable that tells hosts and callers which certificates to trust."""
SCHEMES: Final = {
    ("websocket", False): "ws",
    ("websocket", True): "wss",
    ("grpc", False): "relay",
    ("grpc", True): "relays",
}


class RunningHub(NamedTuple):
    """A hub's process and where it listens on loopback."""

    pid: int
    grpc_port: int
    http_port: int


async def start_hub(processes: Processes, *flags: str) -> RunningHub:
    """Start `relayrpc hub` on free ports, everything else at its defaults."""
    argv = [sys.executable, "-m", "relayrpc", "hub"]
    argv += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *flags]
    hub = await processes.start_program("hub", *argv)
    ports = await hub.line_matching(
        r"listening: grpc 127\.0\.0\.1:(\d+), http 127\.0\.0\.1:(\d+)"
    )
    return RunningHub(hub.pid, int(ports[1]), int(ports[2]))


class Relay(Side):
    """One carrier, pinned at both ends."""

    def __init__(
        self, carrier: Literal["websocket", "grpc"], certificates: Certificates | None = None
    ) -> None:
        self.name = carrier  # type: ignore[misc]  # The same class is two sides.
        self.carrier = carrier
        self._certificates = certificates
        ca_file = os.environ.get(CA_VARIABLE)
        self._tls = TLSOptions(ca_file=ca_file) if ca_file else None

    async def start(self, processes: Processes) -> Service:
        """Start a hub, then the host that dials it."""
        made = self._certificates
        flags = () if made is None else ("--tls-cert", made.chain_file, "--tls-key", made.key_file)
        hub = await start_hub(processes, *flags)
        port = hub.http_port if self.carrier == "websocket" else hub.grpc_port
        scheme = SCHEMES[self.carrier, made is not None]
        url = f"{scheme}://127.0.0.1:{port}/{ADDRESS}"
        host = await processes.start_worker("relay host", "benchmarks.host", self.name, url)
        pids = {"hub": hub.pid, "host": host.pid}
        return Service(side=self, url=url, host="127.0.0.1", port=port, pids=pids)

    async def serve(self, url: str) -> str:
        """Dial the hub and announce the address."""
        self._server = aio.server(url, carrier=self.carrier, tls=self._tls)
        add_services(self._server)
        await self._server.start()
        return url

    async def serve_also(self, number: int) -> None:
        """Announce one more address on the link that `serve` opened; a server itself has one."""
        services = [pb.ServiceDescription(name=SERVICE)]
        await self._server.live.announce(at(ADDRESS, number), services)

    async def connect(self, url: str) -> GRPCCaller:
        """Open a channel."""
        caller = GRPCCaller(aio.channel(url, carrier=self.carrier, tls=self._tls))
        await caller.check()
        return caller
