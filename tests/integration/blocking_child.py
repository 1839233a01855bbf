"""
A program with a blocking channel or server, to be interrupted or to end while it waits:
`python -m tests.integration.blocking_child WHAT URL`.

Prints one line whenever the test should know something.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import grpc

import relayrpc
from tests.support.relay import make_handlers


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def interrupted_call(url: str) -> None:
    """Wait for a response; call again after the interrupt."""
    with relayrpc.channel(url) as channel:
        _expect_interrupt(lambda: channel.unary_unary("/test.Service/H")(b""))
        say(channel.unary_unary("/test.Service/E")(b"still works").decode())


def interrupted_requests(url: str) -> None:
    """Wait for the response of a call whose requests never end."""

    def requests() -> Any:
        while True:
            yield b"x"

    with relayrpc.channel(url) as channel:
        _expect_interrupt(lambda: channel.stream_unary("/test.Service/S")(requests()))
        say(channel.unary_unary("/test.Service/E")(b"still works").decode())


def interrupted_future(url: str) -> None:
    """Wait for a future, which outlives the interrupt."""
    with relayrpc.channel(url) as channel:
        future = channel.unary_unary("/test.Service/H").future(b"")
        _expect_interrupt(future.result)
        say(f"running: {future.running()}")
        future.cancel()


def interrupted_stream(url: str) -> None:
    """Wait for the next message of a stream, and drop it."""
    with relayrpc.channel(url) as channel:

        def read() -> None:
            for message in channel.unary_stream("/test.Service/N")(b""):
                say(message.decode())

        _expect_interrupt(read)
        say(channel.unary_unary("/test.Service/E")(b"still works").decode())


def interrupted_server(url: str) -> None:
    """Serve until interrupted, and end without stopping."""
    server = relayrpc.server(url)
    handlers = make_handlers({"uu:C": lambda request, context: request})
    server.add_registered_method_handlers("test.Child", handlers)
    server.start()
    say("serving")
    _expect_interrupt(server.wait_for_termination)


def terminated_server(url: str) -> None:
    """Serve until a signal's handler stops it, as grpc's servers are stopped."""
    server = relayrpc.server(url)
    handlers = make_handlers({"uu:C": lambda request, context: request})
    server.add_registered_method_handlers("test.Child", handlers)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(30).wait())
    server.start()
    say("serving")
    say(f"timed out: {server.wait_for_termination()}")


def never_closed(url: str) -> None:
    """End in the middle of a call, without closing anything."""
    channel = relayrpc.channel(url)
    future = channel.unary_unary("/test.Service/H").future(b"")
    say("ending")
    sys.stdin.read()
    assert future.running()


def _expect_interrupt(wait: Any) -> None:
    try:
        wait()
    except KeyboardInterrupt:
        say("interrupted")
    except grpc.RpcError as error:
        say(f"failed: {error}")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
