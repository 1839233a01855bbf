"""
Which host serves a call. Goal: the choice DESIGN.md describes. Method: one router, links without
carriers.
"""

from __future__ import annotations

import random

import pytest

from relayrpc.hub.routing import Registration, Router, RoutingRefusal, check_address
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.link.link import Link, LinkState


def _router() -> Router:
    return Router(random=random.Random(1))


def _link() -> Link:
    return Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", is_hub=True, now_s=0.0)


def _picked(router: Router, address: str = "a", method: str = "s.S/m") -> Registration:
    choice = router.pick(address, method)
    assert isinstance(choice, Registration)
    return choice


def _status(router: Router, address: str = "a", method: str = "s.S/m") -> int:
    choice = router.pick(address, method)
    assert isinstance(choice, RoutingRefusal)
    return choice.status


def test_call_goes_to_the_host_of_its_address_and_service() -> None:
    router, links = _router(), [_link(), _link(), _link()]
    router.add(links[0], 1, "a", frozenset({"s.S"}))
    router.add(links[1], 1, "a", frozenset({"s.T"}))
    router.add(links[2], 1, "b", frozenset({"s.S"}))
    assert _picked(router).link is links[0]
    assert _picked(router, method="s.T/m").link is links[1]
    assert _picked(router, "b").link is links[2]


def test_unimplemented_is_said_only_where_somebody_listens() -> None:
    router = _router()
    assert _status(router) == STATUS_UNAVAILABLE
    router.add(_link(), 1, "a", frozenset({"s.T"}))
    assert _status(router) == STATUS_UNIMPLEMENTED
    assert _status(router, "b") == STATUS_UNAVAILABLE


def test_empty_address_puts_each_service_at_its_name() -> None:
    router, link = _router(), _link()
    router.add(link, 1, "", frozenset({"s.S", "s.T"}))
    assert _picked(router, "s.S").link is link
    assert _picked(router, "s.T", "s.T/m").link is link
    assert _status(router, "s.S", "s.T/m") == STATUS_UNIMPLEMENTED


def test_host_with_the_least_calls_open_is_chosen() -> None:
    router = _router()
    for _ in range(3):
        router.add(_link(), 1, "a", frozenset({"s.S"}))
    chosen = []
    for _ in range(6):
        choice = _picked(router)
        choice.calls_open_count += 1
        chosen.append(choice)
    assert sorted(map(chosen.count, router.registrations)) == [2, 2, 2]


def test_parked_host_is_chosen_only_when_no_other_is_there() -> None:
    router, parked, busy = _router(), _link(), _link()
    router.add(parked, 1, "a", frozenset({"s.S"}))
    router.add(busy, 1, "a", frozenset({"s.S"}))
    parked.state = LinkState.PARKED
    _picked(router).calls_open_count += 100
    assert _picked(router).link is busy
    router.remove_link(busy)
    assert _picked(router).link is parked


def test_removing_takes_out_that_registration_and_no_other() -> None:
    router, left, right = _router(), _link(), _link()
    router.add(left, 1, "a", frozenset({"s.S"}))
    router.add(left, 2, "b", frozenset({"s.S"}))
    router.add(right, 1, "a", frozenset({"s.S"}))
    router.remove(left, 1)
    router.remove(left, 1)
    assert _picked(router).link is right
    assert _picked(router, "b").link is left
    router.remove_link(left)
    router.remove_link(right)
    assert _status(router) == _status(router, "b") == STATUS_UNAVAILABLE
    assert not router._by_place
    assert not router._services_by_address
    assert not router.registrations


@pytest.mark.parametrize("address", ["", "a", "a/b.c/~d_e-f", "x" * 512])
def test_address_that_may_be_announced(address: str) -> None:
    assert not check_address(address)


@pytest.mark.parametrize(
    "address", ["/a", "a/", "a//b", "a b", "ä", "$health", "a?b", "a\n", "x" * 513]
)
def test_address_that_may_not_be_announced(address: str) -> None:
    assert check_address(address)
