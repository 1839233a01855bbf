"""
Who is asked for which descriptors, and which are kept. Goal: every set is asked for once, the next
host is asked where one fails, no host is asked before others have their turn, and what is kept has
bounds. Method: registrations by hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayrpc.contract.descriptors import DescriptorSet, checked
from relayrpc.errors import ContractError
from relayrpc.hub.contract_table import ContractTable, Failure
from relayrpc.hub.routing import Registration
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb
from tests.support.contracts import make_file, make_set


SETS = [checked(make_set(make_file(fields={"x": number}))) for number in range(1, 6)]
V1, V2, V3, V4, V5 = SETS
SERVICE = "t.Service"


def make_link() -> Link:
    return Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", is_hub=True, now_s=0.0)


def host(link: Link, *sets: DescriptorSet | bytes) -> Registration:
    """A registration of one service for each of the sets; bytes are a fingerprint without one."""
    announce = pb.Announce()
    for each in sets:
        fingerprint = each if isinstance(each, bytes) else each.fingerprint
        announce.services.add(name=SERVICE, fingerprint=fingerprint)
    return Registration(link, announce, slots=0, priority=0)


def came(table: ContractTable, registration: Registration) -> bool:
    return table.announced(registration.link, registration.announce)


def went(table: ContractTable, registration: Registration) -> None:
    table.withdrawn(registration.link, registration.announce)


def taught(table: ContractTable, *sets: DescriptorSet) -> Registration:
    """Have a host come, and its sets kept."""
    registration = host(make_link(), *sets)
    came(table, registration)
    while (ask := table.next_ask()) is not None:
        table.keep(ask[0], next(each for each in sets if each.fingerprint == ask[1]))
    return registration


def test_what_is_lacking_is_asked_for_once() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    links = [make_link() for _ in range(3)]
    assert all(came(table, host(link, V1)) for link in links)
    assert table.next_ask() == (links[0], V1.fingerprint)
    assert table.next_ask() is None
    assert table.is_wanted(V1.fingerprint)
    table.keep(links[0], V1)
    assert table.next_ask() is None
    assert not table.is_wanted(V1.fingerprint)
    came(table, host(make_link(), V1))
    assert table.next_ask() is None


def test_nobody_looks_for_whom_to_ask_while_one_is_asked_for_all() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    assert came(table, host(make_link(), V1))
    table.next_ask()
    assert not came(table, host(make_link(), V1))
    assert came(table, host(make_link(), V1, V2))


def test_host_without_fingerprints_is_not_asked() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    registration = host(make_link(), b"")
    came(table, registration)
    assert table.next_ask() is None
    assert table.versions([registration], SERVICE) == []
    went(table, registration)


def test_next_host_is_asked_where_one_fails() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    first, second = make_link(), make_link()
    registrations = [host(first, V1), host(second, V1)]
    for each in registrations:
        came(table, each)
    assert table.next_ask() == (first, V1.fingerprint)
    table.give_up(first, V1.fingerprint, Failure.AWAY, "it is silent")
    assert table.is_wanted(V1.fingerprint)
    assert table.next_ask() == (second, V1.fingerprint)
    table.give_up(second, V1.fingerprint, Failure.AWAY, "it is silent too")
    assert not table.is_wanted(V1.fingerprint)
    (contract,) = table.versions(registrations, SERVICE)
    assert contract.fault == "it is silent too"
    # A third one may do better.
    third = make_link()
    came(table, host(third, V1))
    assert table.next_ask() == (third, V1.fingerprint)
    table.keep(third, V1)
    assert (contract.descriptors, contract.fault) == (V1, "")


def test_hosts_that_failed_are_asked_again_when_somebody_wants_it() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    link = make_link()
    registration = host(link, V1)
    came(table, registration)
    table.next_ask()
    table.give_up(link, V1.fingerprint, Failure.AWAY, "it is silent")
    (contract,) = table.versions([registration], SERVICE)
    assert not contract.is_final
    table.want_again(contract)
    assert table.is_wanted(V1.fingerprint)
    assert table.next_ask() == (link, V1.fingerprint)
    table.keep(link, V1)
    assert contract.is_final


def test_nobody_else_is_asked_for_what_cannot_be_used() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    first, second = make_link(), make_link()
    came(table, host(first, V1))
    came(table, host(second, V1))
    assert table.next_ask() == (first, V1.fingerprint)
    table.give_up(first, V1.fingerprint, Failure.BROKEN, "it is broken")
    came(table, host(make_link(), V1))
    assert table.next_ask() is None


def test_what_was_refused_is_forgotten_with_its_last_host() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    link = make_link()
    registration = host(link, V1)
    came(table, registration)
    table.next_ask()
    table.give_up(link, V1.fingerprint, Failure.BROKEN, "it is broken")
    went(table, registration)
    assert table.get(V1.fingerprint) is None
    came(table, registration)
    assert table.next_ask() == (link, V1.fingerprint)


def test_link_is_asked_for_one_thing_at_a_time_and_others_have_their_turn() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    greedy, modest = make_link(), make_link()
    came(table, host(greedy, V1, V2, V3))
    came(table, host(modest, V4))
    assert table.next_ask() == (greedy, V1.fingerprint)
    assert table.next_ask() == (modest, V4.fingerprint)
    assert table.next_ask() is None
    table.keep(greedy, V1)
    came(table, host(modest, V5))
    table.keep(modest, V4)
    assert table.next_ask() == (greedy, V2.fingerprint)
    assert table.next_ask() == (modest, V5.fingerprint)
    table.give_up(greedy, V2.fingerprint, Failure.AWAY, "no")
    assert table.next_ask() == (greedy, V3.fingerprint)


def test_host_that_went_is_not_asked_and_its_answer_does_no_harm() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    link = make_link()
    registration = host(link, V1, V2)
    came(table, registration)
    assert table.next_ask() == (link, V1.fingerprint)
    went(table, registration)
    assert table.next_ask() is None
    assert table.get(V1.fingerprint) is None
    table.keep(link, V1)
    assert table.get(V1.fingerprint) is None
    # It is back, on the same link, before the answer to an earlier question.
    came(table, registration)
    assert table.next_ask() == (link, V1.fingerprint)
    table.give_up(link, V1.fingerprint, Failure.AWAY, "late")
    assert table.next_ask() == (link, V2.fingerprint)


def test_link_with_two_announcements_keeps_what_the_other_one_has() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    link = make_link()
    first, second = host(link, V1), host(link, V1)
    came(table, first)
    came(table, second)
    went(table, first)
    assert table.next_ask() == (link, V1.fingerprint)
    table.keep(link, V1)
    went(table, second)
    assert list(table.newest_first()) == []
    came(table, second)
    assert list(table.newest_first()) == [V1]


def test_what_was_learnt_is_not_asked_for() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    table.learn(V1)
    assert list(table.newest_first()) == []
    registration = host(make_link(), V1)
    came(table, registration)
    assert table.next_ask() is None
    assert list(table.newest_first()) == [V1]
    went(table, registration)
    assert list(table.newest_first()) == []


def test_newest_is_what_was_learnt_last_however_often_others_return() -> None:
    table = ContractTable(DEFAULT_LIMITS)
    old = taught(table, V2)
    new = taught(table, V1)
    for _ in range(2):
        went(table, old)
        came(table, old)
        assert [each.descriptors for each in table.versions([old, new], SERVICE)] == [V1, V2]
        assert list(table.newest_first()) == [V1, V2]
    went(table, new)
    assert list(table.newest_first()) == [V2]


def test_descriptors_without_a_host_stay_until_there_is_no_room() -> None:
    table = ContractTable(replace(DEFAULT_LIMITS, contracts_max=3))
    first, second = taught(table, V1), taught(table, V2)
    taught(table, V3)
    went(table, second)
    went(table, first)
    came(table, second)
    went(table, second)
    # V1 has been left for longest.
    taught(table, V4)
    assert table.get(V1.fingerprint) is None
    assert table.get(V2.fingerprint) is not None
    taught(table, V5)
    assert table.get(V2.fingerprint) is None
    assert list(table.newest_first()) == [V5, V4, V3]


@pytest.mark.parametrize(
    "limits",
    [
        replace(DEFAULT_LIMITS, contracts_max=2),
        replace(DEFAULT_LIMITS, contracts_bytes_max=2 * V1.weight_bytes),
    ],
)
def test_descriptors_beyond_the_bounds_are_refused_where_all_are_served(limits: object) -> None:
    table = ContractTable(limits)  # type: ignore[arg-type]
    taught(table, V1, V2)
    link = make_link()
    registration = host(link, V3)
    came(table, registration)
    assert table.next_ask() == (link, V3.fingerprint)
    with pytest.raises(ContractError, match="keeps 2 contracts"):
        table.keep(link, V3)
    table.give_up(link, V3.fingerprint, Failure.NO_ROOM, "no room")
    (contract,) = table.versions([registration], SERVICE)
    assert (contract.descriptors, contract.fault) == (None, "no room")
    assert list(table.newest_first()) == [V2, V1]
