"""
A caller with sessions, to be killed: `python -m tests.e2e.session_caller CONFIG`. Makes each call
that it is told to make in a session of its own.

SIGTERM: it closes its channel, and ends. Says: asked, of a callback, which it never answers.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

import relayrpc.aio
from tests.e2e.endings.lines import hear, say
from tests.e2e.session_host import EVENTS
from tests.support.relay import Stub, make_handlers


async def _ask(request: bytes, context: Any) -> bytes:
    say("asked", call=request.decode())
    await asyncio.Event().wait()
    return request


def _add_events(_: object, server: grpc.aio.Server) -> None:
    server.add_registered_method_handlers(EVENTS, make_handlers({"uu:Ask": _ask}))


async def _requests(name: str) -> AsyncIterator[bytes]:
    yield name.encode()
    await asyncio.Event().wait()


async def _call(session: relayrpc.aio.Session, service: str, method: str, name: str) -> None:
    stub = Stub(session, service)
    match method:
        case "Feed":
            await anext(aiter(stub.unary_stream(method)(name.encode())))
            await asyncio.Event().wait()
        case "Collect":
            await stub.stream_unary(method)(_requests(name))
        case _:
            await stub.unary_unary(method)(name.encode())


async def _obey(channel: relayrpc.aio.Channel) -> None:
    sessions, calls = [], []
    async for command in hear():
        session = channel.session()
        sessions.append(session)
        calls.append(asyncio.create_task(_call(session, **command["call"])))


async def _main(config: dict[str, Any]) -> None:
    callbacks = [(_add_events, None)]
    async with relayrpc.aio.channel(
        config["url"], carrier=config["carrier"], callbacks=callbacks
    ) as channel:
        obeying = asyncio.create_task(_obey(channel))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obeying.cancel)
        say("ready")
        await asyncio.wait((obeying,))


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
