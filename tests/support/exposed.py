"""An existing grpc.aio server: called directly, or through a hub at which an agent exposes it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import grpc.aio
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health, health_pb2_grpc

import relayrpc.aio
from relayrpc.agent.agent import Agent
from relayrpc.agent.backend import Backend
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.testing import LoopbackHub, run_hub
from tests.support.relay import ADDRESS, make_handlers


__all__ = [
    "SERVICE",
    "Holding",
    "PathName",
    "Reports",
    "Running",
    "calling",
    "descriptor_set",
    "running_agent",
    "running_backend",
    "running_exposed",
    "written",
]

PathName = Literal["direct", "exposed", "exposed by name"]
"""How a caller reaches the server; by name: the agent knows no shapes."""
SERVICE = "test.Service"


class Holding:
    """A handler that counts the calls it has at once, and holds them until they are released."""

    def __init__(self) -> None:
        self.running_count = 0
        self.running_most = 0
        self.released = asyncio.Event()

    async def hold(self, request: bytes, _context: Any) -> bytes:
        self.running_count += 1
        self.running_most = max(self.running_most, self.running_count)
        await self.released.wait()
        self.running_count -= 1
        return request


class Reports:
    """What an agent said, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Condition()

    def __call__(self, line: str, *, is_trouble: bool = False) -> None:
        self.lines.append(f"! {line}" if is_trouble else line)
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, text: str, count: int = 1) -> str:
        """Wait until `count` lines hold a text; returns the last one."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: sum(text in line for line in self.lines) >= count
            )
        return [line for line in self.lines if text in line][-1]


@dataclass
class Running:
    """An agent with one backend at a hub."""

    hub: LoopbackHub
    agent: Agent
    backend: Backend
    reports: Reports
    channel: relayrpc.aio.Channel


@contextlib.asynccontextmanager
async def running_backend(
    behaviors: dict[str, Callable[..., Any]],
    *,
    port: int = 0,
    has_health: bool = False,
    register: Callable[[grpc.aio.Server], None] | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[tuple[str, health.aio.HealthServicer]]:
    """Run a grpc.aio server with methods of `test.Service`; gives its host:port and its health."""
    server = grpc.aio.server()
    server.add_registered_method_handlers(SERVICE, make_handlers(behaviors))
    servicer = health.aio.HealthServicer()
    if has_health:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if register is not None:
        register(server)
    where = f"127.0.0.1:{port}"
    if credentials is None:
        port = server.add_insecure_port(where)
    else:
        port = server.add_secure_port(where, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def running_agent(
    *backends: Backend, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[Agent, Reports]]:
    """Expose backends; gives the agent and what it says when they are all in routing."""
    reports = Reports()
    agent = Agent(limits=limits, report=reports)
    try:
        agent.apply(backends)
        await reports.until("service", len(backends))
        yield agent, reports
    finally:
        await agent.stop(None)


@contextlib.asynccontextmanager
async def running_exposed(
    authority: str, *, limits: Limits = DEFAULT_LIMITS, **settings: Any
) -> AsyncIterator[Running]:
    """Expose what listens there, at a hub of its own; gives it when it is in routing."""
    async with run_hub() as hub:
        url = hub.url(ADDRESS, carrier="websocket")
        settings.setdefault("services", (SERVICE,))
        backend = Backend(target=f"grpc://{authority}", at=url, **settings)
        async with (
            running_agent(backend, limits=limits) as (agent, reports),
            relayrpc.aio.channel(url) as channel,
        ):
            yield Running(hub, agent, backend, reports, channel)


@contextlib.asynccontextmanager
async def calling(
    path: PathName, behaviors: dict[str, Callable[..., Any]]
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve behaviors by grpc.aio, and open a channel to them on one of the paths."""
    async with running_backend(behaviors) as (authority, _):
        if path == "direct":
            options = [("grpc.max_receive_message_length", -1)]
            async with grpc.aio.insecure_channel(authority, options=options) as channel:
                yield channel
            return
        with written(descriptor_set(behaviors)) as file:
            descriptors = file if path == "exposed" else None
            async with running_exposed(authority, descriptors=descriptors) as running:
                yield running.channel


@contextlib.contextmanager
def written(data: bytes) -> Iterator[str]:
    """Write a file; gives its path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "descriptors"
        path.write_bytes(data)
        yield str(path)


def descriptor_set(behaviors: Iterable[str]) -> bytes:
    """Describe `test.Service` with methods of such names as `running_backend` takes."""
    wrappers = FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    file = FileDescriptorProto(
        name="test.proto", package="test", syntax="proto3", dependency=[wrappers.name]
    )
    service = file.service.add(name="Service")
    for name in behaviors:
        kind, method = name.split(":")
        service.method.add(
            name=method,
            input_type=".google.protobuf.BytesValue",
            output_type=".google.protobuf.BytesValue",
            client_streaming=kind[0] == "s",
            server_streaming=kind[1] == "s",
        )
    return FileDescriptorSet(file=[wrappers, file]).SerializeToString()
