"""
A client in another language: `@grpc/grpc-js`, in a process that is told what to call.

Owns: starting it, and calls whose events are read one by one; programs that are run as they are.
Source: grpc_js/client.js.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest


__all__ = [
    "NodeCall",
    "NodeClient",
    "NodeStatus",
    "needs_grpc_js",
    "node_client",
    "run_program",
]

_FOLDER: Final = Path(__file__).with_name("grpc_js")
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024

Pairs = list[tuple[str, str | bytes]]

needs_grpc_js: Final = pytest.mark.skipif(
    shutil.which("node") is None or not (_FOLDER / "node_modules" / "@grpc").is_dir(),
    reason="needs Node.js and the packages of tests/e2e/grpc_js, which `make test` installs by npm",
)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How a call ended, as the client was told."""

    code: grpc.StatusCode
    details: str
    metadata: Pairs
    rich: list[tuple[str, dict[str, Any]]]
    """Name and message of each of a google.rpc.Status's details, where the protos have that."""

    def values(self, key: str) -> list[str | bytes]:
        """The trailers of this key, in order."""
        return [value for name, value in self.metadata if name == key]


class NodeCall:
    """One call of the client. Its events come in gRPC's order: metadata, messages, status."""

    def __init__(self, client: NodeClient, number: int) -> None:
        self._client = client
        self._number = number
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        # Those that came; calls that fail may have none.
        self.initial: Pairs = []

    def write(self, message: Mapping[str, Any]) -> None:
        self._client.tell(self._number, write=message)

    def half_close(self) -> None:
        self._client.tell(self._number, half_close=True)

    def cancel(self) -> None:
        self._client.tell(self._number, cancel=True)

    async def metadata(self) -> Pairs:
        """Wait for the initial metadata, which come first."""
        return self._take_metadata(await self.events.get())

    async def message(self) -> dict[str, Any]:
        """Wait for the next response."""
        event = await self._event_behind_metadata()
        assert "message" in event, event
        message: dict[str, Any] = event["message"]
        return message

    async def status(self) -> NodeStatus:
        """Wait for the end; no response may come before it."""
        responses, status = await self.rest()
        assert responses == []
        return status

    async def rest(self) -> tuple[list[dict[str, Any]], NodeStatus]:
        """Wait for the end, and take the responses that come before it."""
        responses = []
        while "message" in (event := await self._event_behind_metadata()):
            responses.append(event["message"])
        assert "status" in event, event
        status = event["status"]
        code = next(code for code in grpc.StatusCode if code.value[0] == status["code"])
        metadata = _from_json(status["metadata"])
        rich = [(name, message) for name, message in status["rich"]]
        return responses, NodeStatus(code, status["details"], metadata, rich)

    async def _event_behind_metadata(self) -> dict[str, Any]:
        event = await self.events.get()
        if "metadata" in event:
            self._take_metadata(event)
            return await self.events.get()
        return event

    def _take_metadata(self, event: dict[str, Any]) -> Pairs:
        self.initial = _from_json(event["metadata"])
        return self.initial


class NodeClient:
    """A running client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        self.process = process
        self._stdin = process.stdin
        self._numbers = itertools.count(1)
        self._calls: dict[int, NodeCall] = {}

    def open(
        self,
        method: str,
        request: Mapping[str, Any] | None = None,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        deadline_s: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> NodeCall:
        """
        Begin a call.

        Args:
            method: "pkg.Service/Method"; the protos say its shape.
            request: Where the client sends one message; else they are written.
            metadata: In order; bytes for keys that end in "-bin".
            deadline_s: Seconds from now; None: none.
            options: Of a channel that calls with the same ones share; the client's come first.
        """
        number = next(self._numbers)
        call = self._calls[number] = NodeCall(self, number)
        opening: dict[str, Any] = {"method": method, "metadata": _to_json(metadata)}
        if request is not None:
            opening["request"] = request
        if options is not None:
            opening["options"] = options
        if deadline_s is not None:
            opening["deadline_ms"] = int(deadline_s * 1000)
        self.tell(number, open=opening)
        return call

    def tell(self, number: int, **command: object) -> None:
        """Send one command about a call."""
        self._stdin.write(json.dumps({"call": number, **command}).encode() + b"\n")

    async def read_events(self, stdout: asyncio.StreamReader) -> None:
        """Hand events to their calls until the process ends, which is one, too."""
        while line := await stdout.readline():
            event = json.loads(line)
            self._calls[event.pop("call")].events.put_nowait(event)
        for call in self._calls.values():
            call.events.put_nowait({"process": "ended"})


@asynccontextmanager
async def node_client(
    target: str,
    *protos: Path,
    options: Mapping[str, Any] | None = None,
    imports: Sequence[Path] = (),
) -> AsyncIterator[NodeClient]:
    """
    Run a client.

    Args:
        target: "host:port".
        protos: Files that have the services it calls.
        options: The channel's.
        imports: Folders in which the protos find what they import.
    """
    process = await asyncio.create_subprocess_exec(
        "node",
        _FOLDER / "client.js",
        target,
        json.dumps(options or {}),
        *(f"-I{folder}" for folder in imports),
        *protos,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    client = NodeClient(process)
    reading = asyncio.create_task(client.read_events(process.stdout))
    try:
        yield client
        process.stdin.close()
        await reading
    finally:
        reading.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_program(code: str, *, folder: Path) -> str:
    """Run a program in a folder with the packages of `grpc_js`; returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        "node",
        "-",
        cwd=folder,
        env={**os.environ, "NODE_PATH": str(_FOLDER / "node_modules")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, errors = await process.communicate(code.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


def _to_json(pairs: Sequence[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    return [
        (key, base64.b64encode(value).decode() if isinstance(value, bytes) else value)
        for key, value in pairs
    ]


def _from_json(pairs: Sequence[tuple[str, str]]) -> Pairs:
    return [
        (key, base64.b64decode(value) if key.endswith("-bin") else value) for key, value in pairs
    ]
