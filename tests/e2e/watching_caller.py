"""
A caller that a host publishes to, to be stopped and continued: `python -m
tests.e2e.watching_caller CONFIG`. Calls `Watch` whenever it is told to.

Says: watching, when it is in the set; heard, of what was published.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc.aio

import relayrpc.aio
from tests.e2e.endings.lines import hear, say
from tests.support.relay import Stub, make_handlers


async def _tell(request: bytes, context: Any) -> bytes:
    say("heard", call=request.decode())
    return b""


def _add_events(_: object, server: grpc.aio.Server) -> None:
    server.add_registered_method_handlers("test.Events", make_handlers({"uu:Tell": _tell}))


async def _main(config: dict[str, Any]) -> None:
    callbacks = [(_add_events, None)]
    async with relayrpc.aio.channel(
        config["url"], carrier=config["carrier"], callbacks=callbacks
    ) as channel:
        say("ready")
        async for command in hear():
            await Stub(channel).unary_unary("Watch")(b"")
            say("watching", call=command["call"])


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
