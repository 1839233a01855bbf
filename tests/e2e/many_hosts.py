"""
Many hosts in one process: `python -m tests.e2e.many_hosts URL FIRST COUNT`.

Host n serves at the URL's address followed by "/n" and answers any call with its number. Prints a
line of JSON when all are registered, and one for each line that it reads: how often each host has
dialled since the one before. Ends with its input.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import Any

import grpc
import grpc.aio

import relayrpc.aio
from relayrpc.endpoint.dialler import DIALLING, Dialling


__all__ = ["SERVICE"]

SERVICE = "tests.Many"
STARTING_MAX = 64


class Host:
    """One of them."""

    def __init__(self, url: str, number: int) -> None:
        self._number = number
        self.dials_count = 0
        self._server = relayrpc.aio.server(f"{url}/{number}", dialling=self._dialling())
        handlers = {"WhoAreYou": grpc.unary_unary_rpc_method_handler(self._who_are_you)}
        self._server.add_registered_method_handlers(SERVICE, handlers)

    async def start(self, starting: asyncio.Semaphore) -> None:
        async with starting:
            await self._server.start()

    async def _who_are_you(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b"%d" % self._number

    def _dialling(self) -> Dialling:
        async def dial(*args: Any, **options: Any) -> Any:
            self.dials_count += 1
            return await DIALLING.dial(*args, **options)

        return dataclasses.replace(DIALLING, dial=dial)


async def _main(url: str, first: str, count: str) -> None:
    hosts = [Host(url, int(first) + index) for index in range(int(count))]
    starting = asyncio.Semaphore(STARTING_MAX)
    await asyncio.gather(*[host.start(starting) for host in hosts])
    _say({"registered": len(hosts)})
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        _say({"dials": [host.dials_count for host in hosts]})
        for host in hosts:
            host.dials_count = 0


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
