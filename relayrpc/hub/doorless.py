"""
A hub without its doors: the sessions, whoever listens to them, and the contract at "$hub".

Owns: what belongs to every hub, wherever its carriers come from. Does not own: where carriers come
from (server.py and the doors, or a test), what happens on them (session.py). Runs on any event
loop and any carrier, as the sessions do.
Source: DESIGN.md decisions 6 and 8.
"""

from __future__ import annotations

import asyncio
import functools
import random as random_module
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from relayrpc.contract.descriptors import collect
from relayrpc.endpoint.validation import make_validator
from relayrpc.hub.checks import RequestChecks
from relayrpc.hub.contracts import HubContracts
from relayrpc.hub.journal import Journal
from relayrpc.hub.log import HubLog
from relayrpc.hub.management import Management
from relayrpc.hub.metrics import HubMetrics
from relayrpc.hub.rule_books import RuleBooks
from relayrpc.hub.session import HubSessions
from relayrpc.hub.tracing import HubTracing
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.observe.tracing import find_tracing
from relayrpc.store.memory import MemoryStore
from relayrpc.v1 import hub_pb2


if TYPE_CHECKING:
    import random

    from relayrpc.hub.addresses import AddressEntry
    from relayrpc.store.base import Store


__all__ = ["DoorlessHub"]

# Callers may name any number of them.
_ADDRESSES_REMEMBERED: Final = 4_096


class DoorlessHub:
    """
    Takes carriers by `sessions.accept()`. `start()`, then `drain()` or `aclose()`.

    Attributes:
        sessions: Every link, and the observers of what happens to them.
        metrics: What is counted; None: nothing is.
        contracts: What the hosts' services look like.
    """

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        has_metrics: bool = True,
        logs_every_call: bool = False,
        addresses: Mapping[str, AddressEntry] | None = None,
        open_store: Callable[[], Awaitable[Store]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: random.Random | None = None,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """
        Args:
            limits: The hub's bounds.
            has_metrics: Count what happens.
            logs_every_call: Log calls that end well, too.
            addresses: What holds at them, and below.
            open_store: Opens what the hub remembers things in; None: they go with it.
            clock: Monotonic seconds.
            wall_clock: Seconds since 1970.
            random: Breaks ties between hosts; None: a source of its own.
            token_bytes: Source of link ids and secrets.

        Raises:
            ConfigError: Requests are to be checked, and what that takes is not installed.
        """
        self.sessions = HubSessions(
            limits=limits,
            clock=clock,
            random=random or random_module.Random(),
            token_bytes=token_bytes,
        )
        self.metrics = HubMetrics(self.sessions) if has_metrics else None
        if self.metrics is not None:
            self.sessions.observers.add(self.metrics)
        self._log = HubLog(
            limits=limits,
            clock=clock,
            call_later=lambda delay_s, due: asyncio.get_running_loop().call_later(delay_s, due),
            logs_every_call=logs_every_call,
        )
        self.sessions.observers.add(self._log)
        journal = Journal(
            epoch=self.sessions.table.epoch,
            limits=limits,
            hosts_of=self.sessions.forwarder.router.of_link,
            wall_clock=wall_clock,
        )
        self.sessions.observers.add(journal)
        self.contracts = HubContracts(
            self.sessions, addresses=addresses, wall_clock=wall_clock
        )
        self.sessions.observers.add(self.contracts)
        self.sessions.forwarder.hosts.gate = self.contracts
        self.contracts.learn(collect(hub_pb2.DESCRIPTOR))
        if any(entry.validate for entry in (addresses or {}).values()):
            self.sessions.check_requests(_make_checks(self.contracts, limits))
        self._management = Management(self.sessions, journal, self.contracts)
        self._open_store = open_store or _in_memory(limits, wall_clock)
        self._store: Store | None = None

    async def start(self) -> None:
        """
        Open the store and serve "$hub"; carriers may come when this returns.

        Raises:
            StoreError: The store cannot be opened or read.
        """
        self._store = await self._open_store()
        await self.contracts.registry.open(self._store)
        await self._management.start()
        tracing = find_tracing()
        if tracing is not None:
            self.sessions.observers.add(HubTracing(tracing, limits=self.sessions.limits))

    async def drain(self) -> None:
        """Let calls finish up to the drain timeout, then end every link."""
        # Its watchers would stay to the end.
        await self._management.aclose()
        await self.contracts.aclose()
        await self.sessions.drain()
        await self._close_store()

    async def aclose(self) -> None:
        """Stop now: every call ends. Idempotent."""
        await self._management.aclose()
        await self.contracts.aclose()
        await self.sessions.aclose()
        await self._close_store()
        self._log.close()

    async def _close_store(self) -> None:
        if self._store is not None:
            await self.contracts.registry.aclose()
            await self._store.aclose()
            self._store = None


def _make_checks(contracts: HubContracts, limits: Limits) -> RequestChecks:
    books = RuleBooks(
        descriptors=contracts.descriptors,
        validator=make_validator(limits, what="`validate = true` for an address"),
        bytes_max=limits.checked_contracts_bytes_max,
    )
    is_checked = functools.lru_cache(_ADDRESSES_REMEMBERED)(
        lambda address: contracts.registry.rules(address).validate
    )
    return RequestChecks(is_checked=is_checked, books=books, limits=limits)


def _in_memory(
    limits: Limits, wall_clock: Callable[[], float]
) -> Callable[[], Awaitable[Store]]:
    async def open_store() -> Store:
        return MemoryStore(limits=limits, wall_clock=wall_clock)

    return open_store
