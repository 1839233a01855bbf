"""
The scripts, seen from the test: what a host or a caller has said so far, and what it is told.

Owns: starting them, their pipes, their ends. Source: lines.py.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from typing import Any, Final

from tests.e2e.endings.cells import Door, Ending
from tests.integration.watched_hub import check_log


__all__ = ["PeerProcess", "Told", "caller_process", "host_process", "peer_process", "server_at"]

# Whoever is dialled is there, or comes soon.
_LIMITS: Final = {"backoff_s_max": 0.5}


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told of one call."""

    ending: Ending
    details: str
    pushback: str | None
    """What gRPC's retry policies are told."""
    result: Any
    """The response, or how many there were; None: none."""


class PeerProcess:
    """A host or a caller in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        """All that it has said, in order; complete once `finished` has returned."""
        self._has_said = asyncio.Condition()
        self._is_over = False
        self._listening = asyncio.create_task(self._listen())
        assert process.stderr is not None
        self._logging = asyncio.create_task(process.stderr.read())

    async def said(self, event: str, call: str = "") -> dict[str, Any]:
        """
        Wait until it has said this, of this call; returns the line.

        Raises:
            EOFError: It ended before.
        """
        async with self._has_said:
            while (line := self.find(event, call)) is None:
                if self._is_over:
                    raise EOFError(f"it ended without having said {event} of {call!r}")
                await self._has_said.wait()
            return line

    def find(self, event: str, call: str = "") -> dict[str, Any] | None:
        """Return the first line that says this; None: it has not."""
        for line in self.lines:
            if line["event"] == event and line.get("call", "") == call:
                return line
        return None

    async def told(self, call: str) -> Told:
        """Wait until this caller was told how a call ended."""
        return _told(await self.said("told", call))

    def tell(self, event: str, **fields: Any) -> None:
        """Give it a command; no-op when it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"event": event, **fields}).encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        self._process.send_signal(number)

    def call(self, name: str, address: str, *, method: str = "Hold", **options: Any) -> None:
        """Have a caller call, with gRPC's options; what it is told it will say."""
        self.tell("call", call={"name": name, "method": method, "address": address, **options})

    async def finished(self) -> int:
        """Let it end by itself, and read what it says until then; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._listening
        return await self._process.wait()

    async def aclose(self) -> None:
        """Kill it if it still runs. Idempotent."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listening
        await self._logging

    def check_log(self) -> None:
        """Assert that no exception went astray in it; only after its end."""
        check_log(self._logging.result().decode())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._has_said:
                self.lines.append(json.loads(line))
                self._has_said.notify_all()
        async with self._has_said:
            self._is_over = True
            self._has_said.notify_all()


def _told(line: dict[str, Any]) -> Told:
    trailing = line["trailing"]
    executed = trailing.get("relay-may-have-executed")
    ending = Ending(
        line["status"],
        None if executed is None else executed == "true",
        trailing.get("relay-origin"),
    )
    if line["origin"] is not None:
        # A channel of the relay has an error with attributes, which say the same as the trailers.
        said = (line["may_have_executed"], line["origin"])
        assert said == ((True, "host") if executed is None else astuple(ending)[1:]), line
    return Told(
        ending, line["details"], trailing.get("grpc-retry-pushback-ms"), line["result"]
    )


def server_at(door: Door, port: int, address: str, **options: Any) -> dict[str, Any]:
    """
    Describe a server for `host_process`.

    Args:
        door: What its port is.
        port: Of the hub, or of what leads to it.
        address: Where it serves; its instance id is made from that unless given.
        options: `instance`, `slots`; `holds_back`: calls wait before their handlers.
    """
    url = f"{_url(door, port)}/{address}"
    return {"url": url, "instance": address.replace("/", "-"), **options}


def _url(door: Door, port: int) -> str:
    return f"{'relay' if door is Door.GRPC else 'ws'}://127.0.0.1:{port}"


@asynccontextmanager
async def host_process(
    door: Door, *servers: dict[str, Any], **limits: float
) -> AsyncIterator[PeerProcess]:
    """Run a host until it serves; `limits` are for its links. It is killed at the end."""
    config = {"carrier": door, "servers": servers, "limits": {**_LIMITS, **limits}}
    async with peer_process("tests.e2e.endings.host", config, ready="serving") as host:
        yield host


@asynccontextmanager
async def caller_process(
    door: Door, port: int, instance: str, **limits: float
) -> AsyncIterator[PeerProcess]:
    """Run a caller; `limits` are for its link, if it has one. It is killed at the end."""
    config = {
        "door": door,
        "url": f"127.0.0.1:{port}" if door is Door.NATIVE else _url(door, port),
        "instance": instance,
        "limits": {**_LIMITS, **limits},
    }
    async with peer_process("tests.e2e.endings.caller", config, ready="ready") as caller:
        yield caller


@asynccontextmanager
async def peer_process(
    module: str, config: dict[str, Any], *, ready: str
) -> AsyncIterator[PeerProcess]:
    """Run a script until it has said that it is ready; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, json.dumps(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    peer = PeerProcess(process)
    try:
        await peer.said(ready)
        yield peer
    finally:
        await peer.aclose()
    peer.check_log()
