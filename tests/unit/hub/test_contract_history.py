"""
The history of contracts. Goal: it knows which versions callers may hold, and by what they are held
to each other; it has bounds, and what changes is told once, to be stored. Method: verdicts by hand.
"""

from __future__ import annotations

from dataclasses import replace

from relayrpc.contract.compatibility import Level
from relayrpc.hub.contract_history import ContractHistory
from relayrpc.hub.routing import Place
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.v1 import hub_pb2 as pb


ACCEPTED = pb.CONTRACT_VERDICT_ACCEPTED
NOT_COMPARED = pb.CONTRACT_VERDICT_NOT_COMPARED
REFUSED = pb.CONTRACT_VERDICT_REFUSED
PLACE = ("a/b", "t.Service")


class History(ContractHistory):
    """One, and what is served."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.served: set[tuple[Place, bytes]] = set()
        super().__init__(limits, lambda place, fingerprint: (place, fingerprint) in self.served)

    def add(
        self,
        name: str,
        verdict: pb.ContractVerdict = ACCEPTED,
        *,
        place: Place = PLACE,
        level: str = "wire_json",
        at_ms: int = 1,
        size_bytes: int = 10,
    ) -> bool:
        version = pb.ContractVersion(
            fingerprint=name.encode(),
            verdict=verdict,
            level=level,
            first_seen_unix_ms=at_ms,
            last_seen_unix_ms=at_ms,
            descriptor_set_bytes=size_bytes,
        )
        return self.record(place, version)

    def names(self, place: Place = PLACE) -> list[str]:
        return [version.fingerprint.decode() for version in self.describe(place).versions]

    def held_by_callers(self, level: Level = Level.WIRE_JSON) -> list[tuple[str, Level]]:
        return [(name.decode(), held) for name, held in self.held(PLACE, level)]


# --- which versions callers may hold ---


def test_callers_may_hold_all_that_was_accepted() -> None:
    history = History()
    for name in ("v1", "v2", "v3"):
        history.add(name)
    history.add("bad", REFUSED)
    json = Level.WIRE_JSON
    assert history.held_by_callers() == [("v3", json), ("v2", json), ("v1", json)]
    assert history.is_accepted(PLACE, b"v1")
    assert not history.is_accepted(PLACE, b"bad")
    assert history.is_refused(PLACE, b"bad")
    assert not history.is_accepted(("a", "t.Service"), b"v1")


def test_nobody_is_held_to_more_than_those_after_him() -> None:
    history = History()
    for name, level in (("v1", "wire_json"), ("v2", "wire"), ("v3", "wire_json")):
        history.add(name, level=level)
    assert history.held_by_callers() == [
        ("v3", Level.WIRE_JSON),
        ("v2", Level.WIRE_JSON),
        ("v1", Level.WIRE),
    ]
    assert [level for _, level in history.held_by_callers(Level.WIRE)] == 3 * [Level.WIRE]


def test_what_was_before_a_version_that_might_break_anything_does_not_count() -> None:
    history = History()
    history.add("v1")
    history.add("v2", NOT_COMPARED, level="none")
    history.add("v3")
    assert [name for name, _ in history.held_by_callers()] == ["v3", "v2"]
    assert history.is_accepted(PLACE, b"v1")


def test_version_that_was_served_before_anybody_looked_counts_with_the_others() -> None:
    history = History()
    history.add("v1", NOT_COMPARED)
    history.add("v2", NOT_COMPARED)
    assert [name for name, _ in history.held_by_callers()] == ["v2", "v1"]


def test_refused_version_that_is_accepted_later_is_the_newest() -> None:
    history = History()
    history.add("bad", REFUSED, at_ms=1)
    history.add("v1", at_ms=2)
    history.add("bad", at_ms=3)
    assert history.names() == ["v1", "bad"]
    assert history.rank(PLACE, b"bad") == 1
    assert history.rank(PLACE, b"unknown") == -1
    assert history.describe(PLACE).versions[1].first_seen_unix_ms == 1


# --- bounds ---


def test_each_place_holds_so_many_versions_and_as_many_refused_ones() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_versions_max=2))
    history.served.add((PLACE, b"v1"))
    for number in range(1, 5):
        history.add(f"v{number}")
        history.add(f"bad{number}", REFUSED)
    # The first is served still.
    assert history.names() == ["v1", "bad3", "v4", "bad4"]
    history.served.add((PLACE, b"v4"))
    history.add("v5")
    assert history.names() == ["bad3", "v4", "bad4", "v5"]


def test_those_go_first_that_were_refused_and_then_those_nobody_has_served_for_longest() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_history_max=4))
    history.add("v1", place=("a", "s"), at_ms=1)
    history.add("v2", place=("b", "s"), at_ms=2)
    history.add("v3", place=("c", "s"), at_ms=3)
    history.add("bad", REFUSED, at_ms=9)
    history.served.add((("a", "s"), b"v1"))
    assert history.add("v4", at_ms=4)
    assert list(history.places()) == [("a", "s"), PLACE, ("b", "s"), ("c", "s")]
    history.seen(("b", "s"), b"v2", instance="i", now_unix_ms=5)
    assert history.add("v5", at_ms=6)
    assert list(history.places()) == [("a", "s"), PLACE, ("b", "s")]
    assert history.names() == ["v4", "v5"]


def test_there_is_no_room_while_all_is_served() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_history_max=1))
    history.served.add((PLACE, b"v1"))
    assert history.add("v1")
    assert not history.add("v2")
    assert history.names() == ["v1"]
    history.served.clear()
    assert history.add("v2")
    assert history.names() == ["v2"]


def test_descriptors_have_a_bound_and_count_once() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_history_bytes_max=25))
    history.add("v1", place=("a", "s"), at_ms=1)
    history.add("v1", place=("b", "s"), at_ms=2)
    history.add("v2", at_ms=3)
    assert not history.take_dropped()
    history.add("v3", at_ms=4)
    assert list(history.places()) == [PLACE]
    assert history.take_dropped() == [b"v1"]
    assert (history.has_set(b"v1"), history.has_set(b"v2")) == (False, True)


# --- storing ---


def test_what_changed_is_told_once_and_read_again() -> None:
    history = History()
    history.add("v1")
    history.add("v2", REFUSED)
    stored = history.take_changed(is_seen=False)
    assert list(stored) == [PLACE]
    assert not history.take_changed(is_seen=True)
    again = History()
    again.load(stored.values())
    assert again.describe(PLACE) == history.describe(PLACE)
    assert not again.take_changed(is_seen=True)


def test_hosts_that_come_and_go_change_little() -> None:
    history = History()
    history.add("v1", at_ms=1)
    history.take_changed(is_seen=False)
    assert not history.is_seen
    history.seen(PLACE, b"v1", instance="i", now_unix_ms=5)
    history.seen(PLACE, b"unknown", instance="i", now_unix_ms=6)
    assert history.is_seen
    assert not history.take_changed(is_seen=False)
    assert list(history.take_changed(is_seen=True)) == [PLACE]
    assert not history.is_seen
    (version,) = history.describe(PLACE).versions
    assert (version.first_seen_unix_ms, version.last_seen_unix_ms, version.instance) == (1, 5, "i")


def test_place_without_versions_is_told_as_empty() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_history_max=1))
    history.add("v1", place=("a", "s"))
    history.take_changed(is_seen=False)
    history.add("v2")
    changed = history.take_changed(is_seen=False)
    assert changed["a", "s"] == b""
    assert changed[PLACE]
    assert history.take_dropped() == [b"v1"]


def test_what_could_not_be_stored_is_told_again() -> None:
    history = History(replace(DEFAULT_LIMITS, contract_history_max=1))
    history.add("v1")
    history.add("v2")
    changed, dropped = history.take_changed(is_seen=False), history.take_dropped()
    history.not_stored(changed, dropped)
    assert history.take_changed(is_seen=False) == changed
    assert history.take_dropped() == dropped == [b"v1"]
    # One that came back meanwhile is not to be deleted.
    history.add("v1")
    history.not_stored([], [b"v1"])
    assert history.take_dropped() == [b"v2"]
