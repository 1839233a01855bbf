"""
Calls whose requests are checked by the rules in their contract: at the host, at the hub, nowhere.

Owns: which processes stand where, and the host's own: `python -m benchmarks.validation URL WHERE`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from benchmarks import bench_pb2
from benchmarks.child import run, serve_commands
from benchmarks.harness import Processes
from benchmarks.relay_side import start_hub
from benchmarks.ruled_greeter import ruled_greeter
from benchmarks.scenarios import CALLS_IN_FLIGHT, Scenario, start_caller
from benchmarks.services import add_services
from benchmarks.side import ADDRESS, Service
from relayrpc import aio
from relayrpc.contract.descriptors import load_pool


if TYPE_CHECKING:
    from benchmarks.scenarios import Effort
    from benchmarks.side import Side


__all__ = ["ValidatedCalls"]

WHERE: Final = ("nowhere", "host", "hub")


class ValidatedCalls(Scenario):
    """Greetings of 100 bytes, 64 in flight, with a rule that each keeps to."""

    name = "validated_calls"
    sides = ("websocket",)

    async def run(self, side: Side, effort: Effort) -> dict[str, float]:
        """Each way in processes of its own."""
        values: dict[str, float] = {}
        for where in WHERE:
            async with Processes() as processes:
                service = await start(processes, side, where)
                measured = await self.measure(processes, service, effort)
            values |= {f"{where}_{name}": value for name, value in measured.items()}
        return values

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """Calls a second and microseconds a call."""
        caller = await start_caller(processes, service)
        return await caller.run(
            "greetings",
            in_flight=CALLS_IN_FLIGHT,
            warm_up_s=effort.warm_up_s,
            window_s=effort.window_s,
            pids=service.pids,
        )


async def start(processes: Processes, side: Side, where: str) -> Service:
    """Start a hub and a host; one of them checks, or none."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "relayrpc.toml"
        is_checked = "true" if where == "hub" else "false"
        config.write_text(f'[addresses."{ADDRESS}"]\nvalidate = {is_checked}\n', encoding="utf-8")
        hub = await start_hub(processes, "--config", str(config))
    url = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
    host = await processes.start_worker("validating host", "benchmarks.validation", url, where)
    pids = {"hub": hub.pid, "host": host.pid}
    return Service(side=side, url=url, host="127.0.0.1", port=hub.http_port, pids=pids)


async def main(url: str, where: str) -> None:
    """Serve the greeter, as its contract with rules is, until standard input ends."""
    bench = FileDescriptorProto()
    bench_pb2.DESCRIPTOR.CopyToProto(bench)
    files = {file.name: file.SerializeToString() for file in (*ruled_greeter(), bench)}
    server = aio.server(
        url, carrier="websocket", descriptor_pool=load_pool(files), validate=where == "host"
    )
    add_services(server)
    await server.start()
    await serve_commands({"url": url}, {})


if __name__ == "__main__":
    run(main(sys.argv[1], sys.argv[2]))
