"""
`make demo`: a hub, a host and a caller as three processes, and a network that breaks in mid-stream.

The host reaches the hub through two proxies in this process, one for each door, so that its
connection can be cut while the caller reads a long stream. Ends with 1 when a greeting was lost or
doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from typing import Final

from samples.greeter.cut_proxy import CutProxy


__all__ = ["DemoError", "Role", "demo", "main"]

GREETINGS: Final = 1000
CUT_AT: Final = (250, 500)
"""Greetings at which the host's connection is cut; multiples of the caller's progress lines."""
HOST_LINKED: Final = "linked to .* over grpc"
HOST_MOVED: Final = "the link moved to websocket"
"""What the host logs about its link, each time it connects."""
WAIT_S: Final = 15.0
"""Longest wait for any one thing the demo waits for."""


class DemoError(Exception):
    """The demo did not show what it promises."""


class Role:
    """One process of the demo; what it prints is shown behind its name and can be waited for."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self._lines: list[str] = []
        self._seen_count = 0
        self._is_over = False
        self._printed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, name: str, *arguments: str) -> AsyncIterator[Role]:
        """Run `python -m <arguments>` for the time of the context; it is stopped at the end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-u",
            "-m",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        role = cls(name, process)
        try:
            yield role
        finally:
            await role._stop()

    async def printed(self, pattern: str) -> re.Match[str]:
        """
        Wait for a line after the last one waited for.

        Raises:
            DemoError: If the process ends, or `WAIT_S` passes, before the line comes.
        """
        try:
            async with asyncio.timeout(WAIT_S), self._printed:
                while True:
                    while self._seen_count < len(self._lines):
                        self._seen_count += 1
                        if match := re.search(pattern, self._lines[self._seen_count - 1]):
                            return match
                    if self._is_over:
                        raise DemoError(f"the {self.name} ended before it printed {pattern!r}")
                    await self._printed.wait()
        except TimeoutError:
            raise DemoError(f"the {self.name} did not print {pattern!r}") from None

    async def ended(self) -> int:
        """Wait for the process to end by itself; returns its exit code."""
        await self._reading
        return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            say(self.name, line.decode(errors="replace").rstrip())
            async with self._printed:
                self._lines.append(line.decode(errors="replace"))
                self._printed.notify_all()
        async with self._printed:
            self._is_over = True
            self._printed.notify_all()

    async def _stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(WAIT_S):
                await self.ended()
        except TimeoutError:
            self.process.kill()
            await self.ended()


def say(name: str, text: str) -> None:
    print(f"{name:6} | {text}", flush=True)


async def demo() -> None:
    """
    Run the demo once.

    Raises:
        DemoError: If anything did not happen as promised.
    """
    async with contextlib.AsyncExitStack() as stack:
        grpc_proxy, http_proxy = CutProxy(), CutProxy()
        for proxy in (grpc_proxy, http_proxy):
            await proxy.start()
            stack.push_async_callback(proxy.aclose)

        doors = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
        public = ("--http-public", f"ws://127.0.0.1:{http_proxy.port}")
        hub = await stack.enter_async_context(Role.run("hub", "relayrpc", "hub", *doors, *public))
        ports = await hub.printed(r"listening: grpc 127\.0\.0\.1:(\d+), http 127\.0\.0\.1:(\d+)")
        grpc_proxy.target_port, http_proxy.target_port = int(ports[1]), int(ports[2])

        host_url = f"relay://127.0.0.1:{grpc_proxy.port}/contoso/greeter"
        host = await stack.enter_async_context(Role.run("host", "samples.greeter.host", host_url))
        await host.printed(HOST_LINKED)
        await host.printed(HOST_MOVED)

        # The caller goes to the hub itself: only the host's connection is cut.
        caller_url = f"ws://127.0.0.1:{http_proxy.target_port}/contoso/greeter"
        caller = await stack.enter_async_context(
            Role.run("caller", "samples.greeter.caller", caller_url, str(GREETINGS))
        )
        for number in CUT_AT:
            await caller.printed(f"greeting {number} of")
            if grpc_proxy.cut() + http_proxy.cut() == 0:
                raise DemoError("the host had no connection to cut")
            say("demo", f"cut the host's connection at greeting {number}")
            await host.printed(HOST_LINKED)
        if await caller.ended() != 0:
            raise DemoError("the stream did not survive")
    say("demo", "all processes stopped; the stream went on through every cut")


def main() -> int:
    print("Three processes: a hub, a host that opens no port, and a caller.\n", flush=True)
    try:
        asyncio.run(demo())
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
