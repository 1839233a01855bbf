"""
Goal: a hub that is restarted under load ends no call untruthfully, whoever made it.

Method: hub processes one after the other on the same ports; two hosts in this process that count
what they ran; callers on links at both doors and plain gRPC clients, which call all the time in
three shapes, and note what each end claims.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from tests.integration.peers import RecorderStub, calling, recording
from tests.integration.watched_hub import watched_hub
from tests.support.ports import held_doors
from tests.support.until import until_refused


pytestmark = pytest.mark.integration

ADDRESS: Final = "loaded"
CALLERS_COUNT: Final = 4
SERVED_COUNT: Final = 20


class Load:
    """Calls of every caller, and how they ended: by name, None is OK."""

    def __init__(self) -> None:
        self.ends: dict[bytes, grpc.aio.AioRpcError | None] = {}
        self.served: Counter[str] = Counter()
        self._served_more = asyncio.Condition()

    async def call_on(self, stub: RecorderStub, caller: str, metadata: Any = None) -> None:
        """Call one method after the other, again and again, whatever becomes of it."""
        number = 0
        while True:
            name = f"{caller}-{number}".encode()
            number += 1
            try:
                match number % 3:
                    case 0:
                        assert await stub.echo(name, metadata=metadata) == name
                    case 1:
                        counted = stub.count(name + b" 3 0", metadata=metadata)
                        assert [await counted.read() for _ in range(3)] == [
                            b"%s %d" % (name, index) for index in range(3)
                        ]
                        assert await counted.read() is grpc.aio.EOF
                    case _:
                        assert await stub.collect(iter([name] * 2), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                self.ends[name] = error
                # Without a hub calls fail at once: others are to run, too.
                await asyncio.sleep(0)
            else:
                self.ends[name] = None
                async with self._served_more:
                    self.served[caller] += 1
                    self._served_more.notify_all()

    async def served_more(self) -> None:
        """Wait until each caller was served some more calls."""
        due = {caller: count + SERVED_COUNT for caller, count in self.served.items()}
        async with self._served_more:
            await self._served_more.wait_for(
                lambda: all(self.served[caller] >= count for caller, count in due.items())
            )


def may_have_executed(error: grpc.aio.AioRpcError) -> bool | None:
    """What an end claims; None: nothing, as when a plain client's connection broke."""
    claim = error.trailing_metadata().get("relay-may-have-executed")
    return None if claim is None else claim == "true"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_hub_restart_under_load_ends_no_call_untruthfully(
    ending: signal.Signals, tmp_path: Path
) -> None:
    load = Load()
    with held_doors() as doors, watched_hub(tmp_path, *doors) as hub:
        door = f"ws://127.0.0.1:{hub.http_port}/{ADDRESS}"
        grpc_door = f"relay://127.0.0.1:{hub.grpc_port}/{ADDRESS}"
        async with (
            recording(door) as one,
            recording(grpc_door) as two,
            calling(door) as over_websocket,
            calling(grpc_door, carrier="grpc") as over_grpc,
            grpc.aio.insecure_channel(f"127.0.0.1:{hub.grpc_port}") as channel,
            asyncio.TaskGroup() as group,
        ):
            tasks = []
            at = (("relay-address", ADDRESS),)
            for number in range(CALLERS_COUNT):
                for kind, stub, metadata in (
                    ("websocket", over_websocket, None),
                    ("grpc", over_grpc, None),
                    ("native", RecorderStub(channel), at),
                ):
                    caller = f"{kind}-{number}"
                    load.served[caller] = 0
                    tasks.append(group.create_task(load.call_on(stub, caller, metadata)))
            await load.served_more()
            hub.running.process.send_signal(ending)
            await until_refused(hub.grpc_port)
            again = tmp_path / "again"
            again.mkdir()
            with watched_hub(again, *doors) as next_hub:
                await load.served_more()
                await hub.stopped()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                next_hub.check_unhurt()
        executed = one.executed + two.executed
        for name, error in load.ends.items():
            check_end(name, error, executed[name], is_drained=ending is signal.SIGTERM)
        hub.check_log()


def check_end(
    name: bytes, error: grpc.aio.AioRpcError | None, executed: int, *, is_drained: bool
) -> None:
    assert executed <= 1, name
    if error is None:
        assert executed == 1, name
        return
    if error.details() == "Internal error from Core":
        # So gRPC's own client tells of a message that it was about to send when its connection
        # broke; nothing of it is the hub's.
        assert error.code() is grpc.StatusCode.INTERNAL, (name, error)
        assert name.startswith(b"native"), (name, error)
        return
    if error.code() is grpc.StatusCode.CANCELLED:
        # So gRPC's server tells of a call that comes at the moment it closes its port.
        assert is_drained, (name, error)
        assert name.startswith(b"native"), (name, error)
    else:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, (name, error)
    if is_drained or may_have_executed(error) is False:
        # While a hub drains, what runs may finish.
        assert executed == 0, (name, error)
