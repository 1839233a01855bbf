"""
The matrix of endings: who fails, how, while a call is where, over which door; and what must then be
told. Pure data.

Owns: the cells, and for each the endings that its caller may be told and what may have become of
its handler, from a few rules with a reason each. Does not own: how a cell is brought about
(scene.py).
Source: DESIGN.md "What a caller is told"; LINK.md "What a call's end may claim".

Rows of that table that stand elsewhere:

- no host listens, or none serves the service: integration/test_call_ends.py and test_native.py;
- wait_for_ready, a host that is parked, one that drains beside another: test_rows.py here;
- a host lost before it was handed the call: unit/hub/test_waiting.py;
- deadlines: integration/test_call_ends.py and test_native.py; with a silent host test_rows.py here;
- the caller cancels: integration/test_call_ends.py and test_native.py;
- a drain of the hub that takes too long: test_rows.py here;
- limits: integration/test_retry_pushback.py.

"Not allowed" waits for rights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final


__all__ = [
    "ABSENT",
    "CELLS",
    "OK",
    "Cell",
    "Door",
    "Ending",
    "Expected",
    "Fate",
    "Fault",
    "SceneKey",
    "State",
    "Victim",
    "expected",
]


class Victim(StrEnum):
    """Whose process or connection fails; a hub's connections are all of them at once."""

    CALLER = "caller"
    HUB = "hub"
    HOST = "host"


class Fault(StrEnum):
    """How. A stopped process and a silent connection stay so for longer than a link lives."""

    KILL = "kill"
    TERM = "term"
    STOP = "stop"
    CUT = "cut"
    SILENCE = "silence"


class State(StrEnum):
    """Where the call is when it happens."""

    QUEUED = "queued"
    """It waits at the hub: its host has one slot, and another call in it."""
    SENT = "sent"
    """The hub gave it to the host's connection, which delivers nothing."""
    HANDED = "handed"
    """It is in the host's process, and its handler has not started."""
    RUNNING = "running"
    REQUESTS = "requests"
    """Its handler has the first of many messages, and the rest fill what lies between."""
    RESPONSES = "responses"
    """Its caller has the first of many messages, and the rest fill what lies between."""
    ENDING = "ending"
    """Its handler has just returned: whether the end arrives is a race."""


class Door(StrEnum):
    """How caller and host reach the hub; the host behind a native gRPC client uses WebSocket."""

    WEBSOCKET = "websocket"
    GRPC = "grpc"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class SceneKey:
    """What cells have in common that are played together."""

    victim: Victim
    fault: Fault
    door: Door

    def __str__(self) -> str:
        return f"{self.victim}-{self.fault}-{self.door}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix."""

    scene: SceneKey
    state: State

    def __str__(self) -> str:
        return f"{self.scene}-{self.state}"


class Fate(StrEnum):
    """What became of a call's handler, by the host's own record."""

    NEVER = "never started"
    RUNNING = "started, and the process was gone"
    CANCELLED = "cancelled"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a caller is told. A plain gRPC client is told the last two by trailers."""

    status: str
    may_have_executed: bool | None = None
    """None: the relay says nothing of it."""
    origin: str | None = None


OK: Final = Ending("OK")
# gRPC's own library at a plain client made this end: nobody else was left to.
_GRPCS_OWN: Final = Ending("UNAVAILABLE")
_NOT_RUN: Final = Ending("UNAVAILABLE", False, "hub")
_REFUSED: Final = Ending("UNAVAILABLE", False, "host")
_MAY_HAVE_RUN: Final = Ending("UNAVAILABLE", True, "hub")
_OWN_LINK_LOST: Final = Ending("UNAVAILABLE", True, "caller")
_CANCELLED: Final = Ending("CANCELLED", True, "caller")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a cell must show; every ending goes with the fates that fit it."""

    told: frozenset[Ending]
    """Empty: nobody is left to be told."""
    fates: frozenset[Fate]
    reason: str

    @property
    def survives(self) -> bool:
        """True when the call must end with OK, as if nothing had happened."""
        return self.told == {OK}


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is told in the cells that match; an empty set of one dimension matches all of it."""

    told: frozenset[Ending]
    reason: str
    victims: frozenset[Victim] = frozenset()
    faults: frozenset[Fault] = frozenset()
    states: frozenset[State] = frozenset()
    doors: frozenset[Door] = frozenset()

    def matches(self, cell: Cell) -> bool:
        scene = cell.scene
        return (
            (not self.victims or scene.victim in self.victims)
            and (not self.faults or scene.fault in self.faults)
            and (not self.states or cell.state in self.states)
            and (not self.doors or scene.door in self.doors)
        )


_CALLER, _HUB, _HOST = ({victim} for victim in Victim)
_LINKS: Final = frozenset({Door.WEBSOCKET, Door.GRPC})
_NATIVE: Final = frozenset({Door.NATIVE})


def _rule(
    told: set[Ending],
    reason: str,
    *,
    victims: set[Victim] | None = None,
    faults: set[Fault] | None = None,
    states: set[State] | None = None,
    doors: frozenset[Door] = frozenset(),
) -> _Rule:
    return _Rule(
        frozenset(told),
        reason,
        frozenset(victims or ()),
        frozenset(faults or ()),
        frozenset(states or ()),
        doors,
    )


# The first that matches counts. A call that is ending may have arrived as well: see expected().
_RULES: Final = (
    # --- the caller fails ---
    _rule(set(), "its process is gone", victims=_CALLER, faults={Fault.KILL}),
    _rule(
        {Ending("CANCELLED")},
        "it closes its channel; gRPC's own library says no more",
        victims=_CALLER,
        faults={Fault.TERM},
        doors=_NATIVE,
    ),
    _rule(
        {_CANCELLED},
        "it closes its channel, and what it had written may have been run",
        victims=_CALLER,
        faults={Fault.TERM},
    ),
    # --- a connection breaks ---
    _rule({OK}, "links resume: nothing but time", faults={Fault.CUT}, doors=_LINKS),
    _rule({OK}, "the host's link resumes", victims=_HOST, faults={Fault.CUT}),
    _rule(
        {_GRPCS_OWN}, "a gRPC client's connection is no link", faults={Fault.CUT}, doors=_NATIVE
    ),
    # --- the host fails ---
    _rule(
        {_NOT_RUN},
        "no host got it, and there is no other",
        victims=_HOST,
        states={State.QUEUED},
    ),
    _rule(
        {OK, _REFUSED},
        "it arrives while the host drains: served, or refused once the drain has gone far enough",
        victims=_HOST,
        faults={Fault.TERM},
        states={State.SENT},
    ),
    _rule({OK}, "a host that drains finishes what it has", victims=_HOST, faults={Fault.TERM}),
    _rule({_MAY_HAVE_RUN}, "the host was handed it, and is lost", victims=_HOST),
    # --- the hub fails ---
    _rule(
        {_NOT_RUN},
        "a hub that drains hands nothing to hosts any more",
        victims=_HUB,
        faults={Fault.TERM},
        states={State.QUEUED},
    ),
    _rule({OK}, "a hub that drains lets running calls finish", victims=_HUB, faults={Fault.TERM}),
    _rule(
        {_GRPCS_OWN},
        "nobody is left to tell a gRPC client more",
        victims=_HUB,
        faults={Fault.KILL},
        doors=_NATIVE,
    ),
    _rule(
        {OK, _GRPCS_OWN},
        "awake again, the hub hands it to the host, which came back, if its client still is there",
        victims=_HUB,
        faults={Fault.STOP},
        states={State.QUEUED},
        doors=_NATIVE,
    ),
    _rule(
        {_NOT_RUN, _GRPCS_OWN},
        "the hub gives the host up, and says so once it is heard, if the connection still is",
        victims=_HUB,
        faults={Fault.SILENCE},
        states={State.QUEUED},
        doors=_NATIVE,
    ),
    _rule(
        {_MAY_HAVE_RUN, _GRPCS_OWN},
        "awake or heard again, the hub tells what it has ended, if the connection still is",
        victims=_HUB,
        faults={Fault.STOP, Fault.SILENCE},
        doors=_NATIVE,
    ),
    # --- silence ---
    _rule(
        {_GRPCS_OWN},
        "the hub has given the connection up, and the client sees it close",
        victims=_CALLER,
        doors=_NATIVE,
    ),
    _rule({_OWN_LINK_LOST}, "its own link is lost, with what was written", doors=_LINKS),
)


def expected(cell: Cell) -> Expected:
    """Return what a cell must show."""
    rule = next(rule for rule in _RULES if rule.matches(cell))
    told = rule.told
    if cell.state is State.ENDING and told:
        told |= {OK}
    return Expected(told, frozenset(_fates(cell, told)), rule.reason)


def _fates(cell: Cell, told: frozenset[Ending]) -> Iterator[Fate]:
    """What may have become of the handler."""
    scene, state = cell.scene, cell.state
    if OK in told:
        yield Fate.FINISHED
    if told == {OK}:
        return
    if state is State.ENDING:
        yield Fate.FINISHED
    elif state in (State.QUEUED, State.SENT, State.HANDED):
        yield Fate.NEVER
        if (scene.victim, scene.fault, state) in (
            # Awake, the hub hands it on before it learns that its caller has given up,
            (Victim.HUB, Fault.STOP, State.QUEUED),
            # and the host reads what had arrived before it learns that it was given up.
            (Victim.HOST, Fault.STOP, State.SENT),
        ):
            yield Fate.CANCELLED
    elif (scene.victim, scene.fault) == (Victim.HOST, Fault.KILL):
        yield Fate.RUNNING
    else:
        # Whoever is lost: its caller, or the host's own link.
        yield Fate.CANCELLED


ABSENT: Final[dict[State, str]] = {
    State.SENT: (
        "only where the host's side fails: to a caller and a hub that fail it is as if the host "
        "had been handed the call"
    ),
}
"""States that not every victim has."""

CELLS: Final = tuple(
    Cell(SceneKey(victim, fault, door), state)
    for victim, fault, door, state in product(Victim, Fault, Door, State)
    if state not in ABSENT or victim is Victim.HOST
)
"""All that exist, scene by scene."""
