"""
One who chats: serves at chat/<own name>, and says each line of standard input to another.

    python -m samples.chat.peer ada bob
    python -m samples.chat.peer bob ada
"""

from __future__ import annotations

import asyncio
import sys

from google.protobuf.empty_pb2 import Empty

import relayrpc.aio
from relayrpc.typed import ServicerContext
from samples.chat.chat_pb2 import Line
from samples.chat.chat_relay import ChatCaller, add_ChatServicer_to_server


__all__ = ["Peer", "chat"]

DEFAULT_URL = "relay://127.0.0.1:7350"


class Peer:
    """Prints what it is told."""

    def __init__(self, other: str) -> None:
        self._other = other

    async def Say(self, request: Line, context: ServicerContext) -> Empty:
        print(f"{self._other}: {request.text}", flush=True)
        return Empty()


async def chat(url: str, name: str, other: str) -> None:
    """Chat until standard input ends."""
    server = relayrpc.aio.server(f"{url}/chat/{name}")
    add_ChatServicer_to_server(Peer(other), server)
    await server.start()
    print(f"{name} is here, no port opened", flush=True)
    # On the link that the server has: one connection serves and calls.
    caller = ChatCaller(server.channel(f"chat/{other}"))
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            await caller.Say(Line(text=line.rstrip("\n")), wait_for_ready=True, timeout=10)
        except relayrpc.aio.RpcError as error:
            print(f"{other} did not get that: {error.details()}", flush=True)
    await server.stop(5)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python -m samples.chat.peer NAME OTHER [URL]")
    name, other, *rest = sys.argv[1:]
    asyncio.run(chat(rest[0] if rest else DEFAULT_URL, name, other))


if __name__ == "__main__":
    main()
