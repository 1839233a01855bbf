"""
Goal: the real classes keep their promises in every simulated world, and a world replays exactly.

Method: some hundred seeds of ring2.py, which checks each call and everything that is left behind;
then, that these seeds reach what they are meant to reach, and run the very classes that hubs and
users run.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from enum import Enum
from types import FrameType
from typing import Final

import pytest

import relayrpc
import relayrpc.aio
from relayrpc.hub.config import HubConfig
from relayrpc.hub.server import Hub
from relayrpc.hub.session import HubSessions
from tests.simulation import ring2


_SEEDS: Final = range(120)
_REPLAYED: Final = (3, 36)
_CENSUS_SEEDS: Final = range(120)

_REACHED: Final = (
    "call unary_unary",
    "call unary_stream",
    "call stream_unary",
    "call stream_stream",
    "call ended OK",
    "call ended CANCELLED",
    "call ended DEADLINE_EXCEEDED",
    "call ended FAILED_PRECONDITION",
    "call ended RESOURCE_EXHAUSTED",
    "call ended UNAVAILABLE",
    "call ended UNKNOWN",
    "call not executed, and its caller knows",
    "connection broken, delayed or stalled",
    "connection opened",
    "dialled in vain",
    "errand Answer",
    "errand Count",
    "errand Join",
    "errand Mirror",
    "errand Nest",
    "errand Watch",
    "handler aborted",
    "handler cancelled",
    "handler raised",
    "handler returned",
    "hub drained",
    "hub killed",
    "one-way call lost",
    "one-way call ran",
    "publications heard",
    "session closed",
    "session faulted",
    "throttle had some wait",
    "throttle refused",
)

# What a simulation cannot run, and why; everything else in these parts must be run.
_PARTS: Final = ("link", "carrier", "hub", "endpoint")
_OUTSIDE_MODULES: Final = {
    r"endpoint\.(blocking_channel|handover|portal|sync_\w+|thread_io)": (
        "wait on threads, which no seed puts in order"
    ),
    r"endpoint\.call_credentials": "asks plugins, on threads of theirs",
    r"endpoint\.contract_check": "asks management about generated code; worlds have neither",
    r"endpoint\.faults": "reads and writes statuses, and waits for nothing",
    r"endpoint\.inspection": "stands around handlers and channels, and waits for nothing",
}
_OUTSIDE: Final = {
    "carrier.base.Carrier": "has no code",
    "carrier.dial._HandshakeConnection": "opens sockets",
    "carrier.faulty.FaultyCarrier": "runs as a subclass that writes the trace",
    "carrier.grpc_stream.GRPCClientCarrier": "is a socket's",
    "carrier.grpc_stream.GRPCServerCarrier": "is a socket's",
    "carrier.grpc_stream.GRPCStreamCarrier": "is a socket's",
    "carrier.websocket.WebSocketCarrier": "is a socket's",
    "hub.contract_checks.CallerChecks": "is management's",
    "hub.contract_queries.ContractQueries": "is management's",
    "hub.doorless.DoorlessHub": "puts together what a world takes apart",
    "hub.grpc_door.GRPCDoor": "listens",
    "hub.grpc_door._LinkHandler": "is a door's",
    "hub.health.HubHealth": "is a door's",
    "hub.http_door.HTTPDoor": "listens",
    "hub.http_door._HTTPConnection": "is a door's",
    "hub.management.Management": "is served over a link that no simulation cuts",
    "hub.observer.HubObserver": "has no code",
    "hub.reflection.HubReflection": "is a door's",
    "hub.reflection._Stream": "is a door's",
    "hub.selection.Selection": "is management's",
    "hub.server.Hub": "is two doors and a hub behind them",
    "hub.tracing.HubTracing": "is there with an SDK only",
    "link.events.Event": "has no code",
}


def test_worlds_keep_their_promises() -> None:
    seen: Counter[str] = Counter()
    for seed in _SEEDS:
        seen.update(ring2.run_world(seed).seen)
    missed = [what for what in _REACHED if not seen[what]]
    assert not missed, f"these seeds no longer reach {missed}"


@pytest.mark.parametrize("seed", _REPLAYED)
def test_world_replays_exactly(seed: int) -> None:
    """In the same process, and in another one whose hashes and addresses differ."""
    digest = ring2.run_world(seed).digest
    assert ring2.run_world(seed).digest == digest
    other = subprocess.run(
        [sys.executable, "-m", "tests.simulation.ring2", "0", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.splitlines()[-1] == f"{seed} {digest}"


def _classes() -> dict[str, type]:
    """Every class of the simulated parts that has code: "link.call.Call" -> the class."""
    found: dict[str, type] = {}
    for module_info in pkgutil.walk_packages(relayrpc.__path__, "relayrpc."):
        name = module_info.name.removeprefix("relayrpc.")
        if name.partition(".")[0] not in _PARTS:
            continue
        for each in vars(importlib.import_module(module_info.name)).values():
            if inspect.isclass(each) and each.__module__ == module_info.name and _has_code(each):
                found[f"{name}.{each.__qualname__}"] = each
    return found


def _has_code(cls: type) -> bool:
    is_plain = issubclass(cls, (Enum, BaseException, tuple)) or hasattr(cls, "__dataclass_fields__")
    return not (is_plain or getattr(cls, "_is_protocol", False))


def test_worlds_run_the_very_classes_that_hubs_and_users_run() -> None:
    """A stand-in or a copy does not count; a base class runs as one of the relay's own."""
    run: set[type] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_varnames[:1] == ("self",):
            cls = type(frame.f_locals.get("self"))
            if cls.__module__.startswith("relayrpc."):
                run.update(cls.__mro__)

    wanted = {
        name: cls
        for name, cls in _classes().items()
        if name not in _OUTSIDE
        and not any(re.fullmatch(each, name.rpartition(".")[0]) for each in _OUTSIDE_MODULES)
    }
    before = sys.getprofile()
    for seed in _CENSUS_SEEDS:
        sys.setprofile(note)
        try:
            ring2.run_world(seed)
        finally:
            sys.setprofile(before)
        if run.issuperset(wanted.values()):
            break
    not_run = sorted(name for name, cls in wanted.items() if cls not in run)
    assert not not_run, f"no world runs {not_run}"


def test_list_of_what_stays_outside_is_current() -> None:
    gone = sorted(_OUTSIDE.keys() - _classes().keys())
    assert not gone, f"there is no {gone} any more"


async def test_hub_and_users_run_what_the_worlds_run() -> None:
    hub = Hub(HubConfig(grpc="127.0.0.1:0", http="127.0.0.1:0"))
    channel = relayrpc.aio.channel("relay://127.0.0.1:1/a")
    server = relayrpc.aio.server("relay://127.0.0.1:1/a")
    assert type(hub.sessions) is HubSessions is ring2.HubSessions
    assert type(channel) is ring2.Channel
    assert type(server) is ring2.Server
    assert type(channel.live) is type(server.live) is ring2.LiveLink
    await channel.close()
    await server.stop(None)
    await hub.aclose()
