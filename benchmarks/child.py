"""
The child's half of a benchmark process: takes commands as JSON lines, answers each with one.

Ends when its standard input does, so that it never outlives the benchmark. harness.Worker is the
other half.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import uvloop


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping


__all__ = ["Command", "run", "serve_commands"]

if TYPE_CHECKING:
    Command = Callable[..., Awaitable[dict[str, Any]]]

COMMANDS_RUNNING_MAX: Final = 8


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a child on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def serve_commands(ready: dict[str, Any], commands: Mapping[str, Command]) -> None:
    """Say `ready`, then do what each line of standard input asks, several at a time."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": ready})
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        request = json.loads(line)
        if len(running) >= COMMANDS_RUNNING_MAX:
            say({"id": request["id"], "error": f"{COMMANDS_RUNNING_MAX} commands are running"})
            continue
        task = asyncio.create_task(answer(request, commands))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def answer(request: dict[str, Any], commands: Mapping[str, Command]) -> None:
    """Do one command and say how it went."""
    try:
        result = await commands[request["command"]](**request["arguments"])
    except Exception as error:
        # Whatever fails belongs to this measurement only; the benchmark goes on and shows it.
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        what = f"{request['command']}: {type(first).__name__}: {first}"
        say({"id": request["id"], "error": what})
    else:
        say({"id": request["id"], "result": result})


def say(line: dict[str, Any]) -> None:
    """Write one line to the benchmark."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
