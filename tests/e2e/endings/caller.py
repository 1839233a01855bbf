"""
The caller of a scene: `python -m tests.e2e.endings.caller CONFIG`. Calls what it is told to call,
and says what it was told.

CONFIG names a door: "websocket" or "grpc" is a channel of the relay, "native" one of grpcio.
SIGTERM: it closes its channel, and ends. Says: reading (the first response of a stream), told.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

import relayrpc.aio
from relayrpc.limits import DEFAULT_LIMITS
from tests.e2e.endings.host import MESSAGES, SERVICE, numbered
from tests.e2e.endings.lines import hear, say


# They fit in what the hub takes ahead of a reader.
_MESSAGES_NATIVE: Final = 8
_TOLD_KEYS: Final = ("relay-origin", "relay-may-have-executed", "grpc-retry-pushback-ms")


class Caller:
    """Every call it makes, by name."""

    def __init__(self, channel: grpc.aio.Channel, *, is_native: bool) -> None:
        self._channel = channel
        # grpc.aio loses the status of a call that ends while a message of it cannot leave.
        self._messages_max = _MESSAGES_NATIVE if is_native else MESSAGES
        self._goes_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._calls: set[asyncio.Task[None]] = set()

    async def obey(self) -> None:
        """Do what the test says, until it has no more to say."""
        async for command in hear():
            if command["event"] == "go":
                self._goes_on[command["call"]].set()
                continue
            task = asyncio.create_task(self._call(**command["call"]))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def over(self) -> None:
        """Wait until every call has been told its end."""
        if self._calls:
            await asyncio.wait(self._calls)

    async def _call(self, name: str, method: str, address: str, **options: Any) -> None:
        options["metadata"] = (("call", name), ("relay-address", address))
        match method:
            case "Feed":
                call = self._channel.unary_stream(f"/{SERVICE}/Feed")(b"", **options)
                awaiting = self._read(name, call)
            case "Collect":
                requests = self._requests(name)
                call = self._channel.stream_unary(f"/{SERVICE}/Collect")(requests, **options)
                awaiting = call
            case _:
                call = self._channel.unary_unary(f"/{SERVICE}/Hold")(name.encode(), **options)
                awaiting = call
        result: Any = None
        error: grpc.RpcError | None = None
        try:
            result = await awaiting
        except grpc.RpcError as caught:
            error = caught
        except asyncio.CancelledError:
            # The channel was closed, and its calls with it.
            pass
        trailing = await call.trailing_metadata() or ()
        say(
            "told",
            call=name,
            status=(await call.code()).name,
            details=await call.details(),
            origin=getattr(error, "origin", None),
            may_have_executed=getattr(error, "may_have_executed", None),
            trailing={key: value for key, value in trailing if key in _TOLD_KEYS},
            result=result.decode() if isinstance(result, bytes) else result,
        )

    async def _read(self, name: str, call: Any) -> int:
        """Read a stream: the first message, and the rest when told to go on."""
        count = 0
        while (message := await call.read()) is not grpc.aio.EOF:
            assert message == numbered(count), f"{message[:4]!r} where number {count} was due"
            count += 1
            if count == 1:
                say("reading", call=name)
                call.add_done_callback(lambda _: self._goes_on[name].set())
                await self._goes_on[name].wait()
        return count

    async def _requests(self, name: str) -> AsyncIterator[bytes]:
        """Yield a stream; only as much as can leave, until told to go on, where that must be."""
        for number in range(MESSAGES):
            if number == self._messages_max:
                await self._goes_on[name].wait()
            yield numbered(number)


def _open_channel(config: dict[str, Any]) -> grpc.aio.Channel:
    if config["door"] == "native":
        # Else its window grows until it holds the stream whose reader has stopped.
        return grpc.aio.insecure_channel(config["url"], (("grpc.http2.bdp_probe", 0),))
    limits = dataclasses.replace(DEFAULT_LIMITS, **config["limits"])
    return relayrpc.aio.channel(
        config["url"], carrier=config["door"], instance=config["instance"], limits=limits
    )


async def _main(config: dict[str, Any]) -> None:
    async with _open_channel(config) as channel:
        caller = Caller(channel, is_native=config["door"] == "native")
        obeying = asyncio.create_task(caller.obey())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obeying.cancel)
        say("ready")
        await asyncio.wait((obeying,))
        await channel.close()
        await caller.over()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
