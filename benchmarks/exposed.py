"""
An existing grpc.aio server behind the relay: `relayrpc expose` beside it.

Owns: which processes stand where. The server is direct's own, and so is its measurement.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from benchmarks import bench_pb2
from benchmarks.harness import Processes
from benchmarks.relay_side import SCHEMES, start_hub
from benchmarks.scenarios import STUB_SIDES, Calls
from benchmarks.side import ADDRESS, Service
from benchmarks.sides import side as side_of


if TYPE_CHECKING:
    from benchmarks.harness import Process
    from benchmarks.relay_side import RunningHub
    from benchmarks.scenarios import Effort
    from benchmarks.side import Side


__all__ = ["EXPOSE_CALLS"]


class ExposeCalls(Calls):
    """Echoes of 100 bytes, 64 in flight, served by a grpc.aio server that knows no relay."""

    name = "expose_calls"
    sides = STUB_SIDES

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """As Scenario's; on the relay's sides the agent stands before direct's server."""
        async with Processes() as processes:
            service = await side_of("direct").start(processes)
            if side.name != "direct":
                service = await expose(processes, side, service)
            return await self.measure(processes, service, effort)


async def expose(processes: Processes, side: Side, exposed: Service) -> Service:
    """Start a hub, and an agent that exposes a service at it, over the carrier of the defaults."""
    hub = await start_hub(processes)
    agent = await start_agent(processes, exposed, hub)
    is_websocket = side.name == "websocket"
    port = hub.http_port if is_websocket else hub.grpc_port
    url = f"127.0.0.1:{port}"
    if side.name != "native":
        url = f"{SCHEMES[side.name, False]}://{url}/{ADDRESS}"
    pids = {"hub": hub.pid, "agent": agent.pid, **exposed.pids}
    return Service(side=side, url=url, host="127.0.0.1", port=port, pids=pids)


async def start_agent(processes: Processes, exposed: Service, hub: RunningHub) -> Process:
    """Start `relayrpc expose`, and wait until the server behind it is in routing."""
    at = f"relay://127.0.0.1:{hub.grpc_port}/{ADDRESS}"
    argv = [sys.executable, "-m", "relayrpc", "expose", f"grpc://{exposed.url}", "--at", at]
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "bench.desc"
        descriptors.write_bytes(descriptor_set().SerializeToString())
        agent = await processes.start_program("agent", *argv, "--descriptors", str(descriptors))
        await agent.line_matching(f"at {ADDRESS}, 2 services")
    return agent


def descriptor_set() -> FileDescriptorSet:
    """Describe what the server has, which has no reflection."""
    file = FileDescriptorProto()
    bench_pb2.DESCRIPTOR.CopyToProto(file)
    return FileDescriptorSet(file=[file])


EXPOSE_CALLS: Final = ExposeCalls()
