"""
Processor time a unary call costs the pure core: `python -m benchmarks.micro [--profile ROLE]`.

A caller's link, a hub's core with its two links, and a host's link, pumped by hand in one process:
no sockets, no tasks, no event loop. What a role costs beyond this is the carrier's and asyncio's.
Never a figure that is published; it is for finding out where time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, get_args

from relayrpc.hub.forward import Forwarder
from relayrpc.hub.links import Accepted, LinkTable
from relayrpc.hub.routing import Router
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.events import CallEnded, CallOpened
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Iterator

    from relayrpc.link.events import Event


__all__ = ["Circuit", "Wire", "main"]

Role = Literal["caller", "hub", "host"]

ADDRESS: Final = "bench/echo"
SERVICE: Final = "benchmarks.v1.Bytes"
METHOD: Final = f"{SERVICE}/Echo"
DEADLINE_S: Final = 10.0
PROFILE_LINES: Final = 40


class Wire:
    """One link, both of its ends, over a carrier that loses nothing and takes no time."""

    def __init__(self, name: str, table: LinkTable) -> None:
        now_s = time.monotonic()
        self.outer = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance=name, now_s=now_s)
        self.attempt = self.outer.carrier_opened(now_s=now_s)
        hello = self.outer.batch_to_send(attempt=self.attempt, now_s=now_s)
        assert hello is not None
        accepted = table.first_batch(hello, peer=f"memory:{name}", websocket_url="", now_s=now_s)
        assert isinstance(accepted, Accepted)
        self.inner = accepted.link
        self.receive(self.outer, self.taken(self.inner))

    def taken(self, link: Link) -> list[bytes]:
        """Every batch that one end has to send."""
        batches: list[bytes] = []
        while True:
            batch = link.batch_to_send(attempt=self.attempt, now_s=time.monotonic())
            if batch is None:
                return batches
            batches.append(batch)

    def receive(self, link: Link, batches: list[bytes]) -> list[Event]:
        """Hand batches to the other end; returns what happened."""
        for batch in batches:
            link.receive_batch(batch, attempt=self.attempt, now_s=time.monotonic())
        return link.events_received()


class Circuit:
    """A caller, a hub and a host, joined; `turn` makes some calls from end to end."""

    def __init__(self, *, calls_count: int, payload_bytes: int) -> None:
        table = LinkTable(limits=DEFAULT_LIMITS, token_bytes=secrets.token_bytes)
        self.hub = Forwarder(Router(random=random.Random(1)), limits=DEFAULT_LIMITS)
        self.caller = Wire("caller", table)
        self.host = Wire("host", table)
        self.calls_count = calls_count
        self.payload = bytes(payload_bytes)
        self.used_s: dict[Role, float] = dict.fromkeys(get_args(Role), 0.0)
        self.profiled: Role | None = None
        self.profile = cProfile.Profile()
        service = pb.ServiceDescription(name=SERVICE)
        self.host.outer.announce(1, ADDRESS, [service])
        self._through_hub(self.host, self.host.taken(self.host.outer))
        self.host.receive(self.host.outer, self.host.taken(self.host.inner))

    def turn(self) -> None:
        """Every role handles what a busy loop would find in its sockets at once."""
        with self._role("caller"):
            for _ in range(self.calls_count):
                self._open()
            batches = self.caller.taken(self.caller.outer)
        with self._role("hub"):
            self._through_hub(self.caller, batches)
            batches = self.host.taken(self.host.inner)
        with self._role("host"):
            for event in self.host.receive(self.host.outer, batches):
                assert isinstance(event, CallOpened)
                self.host.outer.end_call(event.call, data=event.frame.open.data)
            batches = self.host.taken(self.host.outer)
        with self._role("hub"):
            self._through_hub(self.host, batches)
            batches = self.caller.taken(self.caller.inner)
        with self._role("caller"):
            ended = self.caller.receive(self.caller.outer, batches)
        assert len(ended) == self.calls_count, ended[:1]
        assert all(isinstance(event, CallEnded) for event in ended)

    def _open(self) -> None:
        now_s = time.monotonic()
        self.caller.outer.open_call(
            METHOD,
            ADDRESS,
            shape=pb.SHAPE_UNARY_UNARY,
            app=None,
            deadline_s=now_s + DEADLINE_S,
            data=self.payload,
            half_close=True,
            now_s=now_s,
        )

    def _through_hub(self, wire: Wire, batches: list[bytes]) -> None:
        events = wire.receive(wire.inner, batches)
        self.hub.handle(wire.inner, events, now_s=time.monotonic())

    @contextmanager
    def _role(self, role: Role) -> Iterator[None]:
        is_profiled = role == self.profiled
        began_s = time.perf_counter()
        if is_profiled:
            self.profile.enable()
        yield
        if is_profiled:
            self.profile.disable()
        self.used_s[role] += time.perf_counter() - began_s


def main() -> None:
    """Measure all roles, or profile one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("--calls", type=int, default=64_000, help="how many; default 64,000")
    parser.add_argument("--in-flight", type=int, default=64, help="calls a batch; default 64")
    parser.add_argument("--bytes", type=int, default=100, help="payload; default 100")
    parser.add_argument("--profile", choices=get_args(Role), help="run cProfile over one role")
    options = parser.parse_args()
    circuit = Circuit(calls_count=options.in_flight, payload_bytes=options.bytes)
    turns_count = max(1, options.calls // options.in_flight)
    for _ in range(min(turns_count, 50)):
        circuit.turn()
    circuit.used_s = dict.fromkeys(circuit.used_s, 0.0)
    circuit.profiled = options.profile
    for _ in range(turns_count):
        circuit.turn()
    calls_count = turns_count * options.in_flight
    for role, used_s in circuit.used_s.items():
        print(f"{role:7} {used_s * 1e6 / calls_count:6.2f} µs a call")
    if options.profile:
        pstats.Stats(circuit.profile).sort_stats("tottime").print_stats(PROFILE_LINES)


if __name__ == "__main__":
    main()
