"""
How long the hub's router takes to choose a host: `python -m benchmarks.routing [--profile]`.

On the hub's own links and without any call: nothing is decoded, charged or sent.
Owns: the cases. Source: relayrpc/hub/routing.py.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import pstats
import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.harness import BenchmarkError, Processes
from benchmarks.micro import METHOD, PROFILE_LINES, SERVICE, Wire
from benchmarks.scenarios import Scenario
from benchmarks.side import Caller, Service, Side
from relayrpc.hub.links import LinkTable
from relayrpc.hub.routing import Registration, Router
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scenarios import Effort


__all__ = ["CASES", "Case", "Core", "Routing", "main", "measured"]

DECISIONS_COUNT: Final = 20_000
REPEATS: Final = 5
BELOW: Final = "/x" * 3
"""Three segments more: the router finds no host there, nor at the two paths above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Who listens, and how they are called."""

    name: str
    hosts_count: int
    """At each address."""
    addresses_count: int = 1
    below: str = ""
    """What calls add to the address that hosts announced."""
    sticky_key: str = ""


KINDS: Final = (
    Case(name="one_host", hosts_count=1),
    Case(name="three_hosts", hosts_count=3),
    Case(name="thousand_addresses", hosts_count=3, addresses_count=1000),
    Case(name="sticky_key", hosts_count=3, sticky_key="customer-4711"),
)
CASES: Final = (
    *KINDS,
    *(
        Case(
            name=f"{kind.name}_above",
            hosts_count=kind.hosts_count,
            addresses_count=kind.addresses_count,
            sticky_key=kind.sticky_key,
            below=BELOW,
        )
        for kind in KINDS
    ),
)


class Core(Side):
    """The hub's pure core, in the benchmark's own process: there is nothing to start or to call."""

    name = "core"
    has_streams = False

    async def start(self, processes: Processes) -> Service:
        """Start nothing."""
        return Service(side=self, url="", host="", port=0)

    async def serve(self, url: str) -> str:
        """Raise: nobody serves."""
        raise BenchmarkError("the core has no host")

    async def connect(self, url: str) -> Caller:
        """Raise: nobody calls."""
        raise BenchmarkError("the core has no caller")


class Routing(Scenario):
    """Microseconds a decision."""

    name = "routing"
    sides = ("core",)

    async def measure(
        self, processes: Processes, service: Service, effort: Effort
    ) -> dict[str, float]:
        """All cases, one after the other."""
        return await asyncio.to_thread(measured)


def measured() -> dict[str, float]:
    """Microseconds a decision of every case, the least of some repeats: `{case}_us`."""
    return {f"{case.name}_us": min(_us_per_decision(case)) for case in CASES}


def _us_per_decision(case: Case) -> list[float]:
    decide = _decisions(case)
    decide()
    times = []
    for _ in range(REPEATS):
        began_s = time.thread_time()
        decide()
        times.append((time.thread_time() - began_s) * 1e6 / DECISIONS_COUNT)
    return times


def _decisions(case: Case) -> Callable[[], None]:
    """Set the case up; what is returned makes DECISIONS_COUNT decisions."""
    table = LinkTable(limits=DEFAULT_LIMITS, token_bytes=secrets.token_bytes)
    router = Router(random=random.Random(1))
    addresses = [f"bench/echo/{number}" for number in range(case.addresses_count)]
    services = [pb.ServiceDescription(name=SERVICE)]
    for number in range(case.hosts_count):
        link = Wire(f"host-{number}", table).inner
        for announcement_id, address in enumerate(addresses, 1):
            router.add(link, pb.Announce(id=announcement_id, address=address, services=services))
    called = [address + case.below for address in addresses]
    sticky_key = case.sticky_key

    def decide() -> None:
        pick = router.pick
        for address in itertools.islice(itertools.cycle(called), DECISIONS_COUNT):
            choice = pick(address, METHOD, sticky_key=sticky_key)
        assert isinstance(choice, Registration)

    return decide


def main() -> None:
    """Measure all cases, or profile one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--profile", choices=names, help="run cProfile over one case")
    options = parser.parse_args()
    if options.profile:
        decide = _decisions(CASES[names.index(options.profile)])
        profile = cProfile.Profile()
        profile.runcall(decide)
        pstats.Stats(profile).sort_stats("tottime").print_stats(PROFILE_LINES)
        return
    for name, value in measured().items():
        print(f"{name.removesuffix('_us'):26} {value:6.2f} µs a decision")


if __name__ == "__main__":
    main()
