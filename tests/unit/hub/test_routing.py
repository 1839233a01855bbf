"""
Which host serves a call. Goal: the choice and every refusal follow LINK.md, and nothing is left of
a host that went. Method: tables, and a Hypothesis walk against a plain model.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.hub.routing import Registration, Router, RoutingRefusal, check_address
from relayrpc.limits import DEFAULT_LIMITS
from relayrpc.link.call import STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.link.link import Link, LinkState


def _link(state: LinkState = LinkState.OPEN) -> Link:
    link = Link(is_dialler=False, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    link.state = state
    return link


def _router() -> Router:
    return Router(random=random.Random(3))


def _picked(choice: Registration | RoutingRefusal) -> Registration:
    assert isinstance(choice, Registration), choice
    return choice


def test_host_is_found_by_address_and_service() -> None:
    router = _router()
    link = _link()
    router.add(link, 1, "a/b", frozenset({"s.One", "s.Two"}))
    for service in ("s.One", "s.Two"):
        assert _picked(router.pick("a/b", f"{service}/M")).link is link


@pytest.mark.parametrize(
    ("address", "method", "status", "says"),
    [
        ("a/b", "s.Three/M", STATUS_UNIMPLEMENTED, "no host at 'a/b' serves 's.Three'"),
        ("a", "s.One/M", STATUS_UNAVAILABLE, "no host listens at 'a'"),
        ("a/b/c", "s.One/M", STATUS_UNAVAILABLE, "no host listens at 'a/b/c'"),
        ("", "s.One/M", STATUS_UNAVAILABLE, "no host listens at ''"),
    ],
)
def test_call_without_a_host_is_refused(
    address: str, method: str, status: int, says: str
) -> None:
    router = _router()
    router.add(_link(), 1, "a/b", frozenset({"s.One", "s.Two"}))
    assert router.pick(address, method) == RoutingRefusal(status, says)


def test_host_without_an_address_stands_at_the_name_of_each_service() -> None:
    router = _router()
    router.add(_link(), 1, "", frozenset({"s.One", "s.Two"}))
    assert isinstance(router.pick("s.One", "s.One/M"), Registration)
    refusal = router.pick("s.One", "s.Two/M")
    assert isinstance(refusal, RoutingRefusal)
    assert refusal.status == STATUS_UNIMPLEMENTED


def test_host_with_a_carrier_goes_before_a_parked_one_and_idle_before_busy() -> None:
    router = _router()
    parked, busy, idle = _link(LinkState.PARKED), _link(), _link()
    for link in (parked, busy, idle):
        router.add(link, 1, "a", frozenset({"s"}))
    _, second, _ = router.registrations
    second.calls_open_count = 1
    assert _picked(router.pick("a", "s/M")).link is idle
    router.remove_link(idle)
    assert _picked(router.pick("a", "s/M")).link is busy
    router.remove_link(busy)
    assert _picked(router.pick("a", "s/M")).link is parked


def test_ties_are_drawn_from_all_that_are_equal() -> None:
    router = _router()
    for _ in range(3):
        router.add(_link(), 1, "a", frozenset({"s"}))
    picked = {id(_picked(router.pick("a", "s/M"))) for _ in range(50)}
    assert len(picked) == 3


def test_removing_takes_out_that_registration_and_no_other() -> None:
    router, left, right = _router(), _link(), _link()
    router.add(left, 1, "a", frozenset({"s"}))
    router.add(left, 2, "b", frozenset({"s"}))
    router.add(right, 1, "a", frozenset({"s"}))
    router.remove(left, 1)
    router.remove(left, 1)
    assert _picked(router.pick("a", "s/M")).link is right
    assert _picked(router.pick("b", "s/M")).link is left


def test_removing_what_is_not_there_does_nothing() -> None:
    router = _router()
    link = _link()
    router.remove(link, 1)
    router.add(link, 1, "a", frozenset({"s"}))
    router.remove(link, 2)
    assert len(router.registrations) == 1


@pytest.mark.parametrize(
    "address",
    ["", "a", "a/b", "contoso/billing/greeter", "A-1._~/z", "x" * 512],
)
def test_address_is_a_path(address: str) -> None:
    assert check_address(address) == ""


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/a", "is no path"),
        ("a/", "is no path"),
        ("a//b", "is no path"),
        ("a b", "is no path"),
        ("a\n", "is no path"),
        ("ä", "is no path"),
        ("x" * 513, "is no path"),
        ("$hub", "is reserved"),
        ("$hub/x", "is reserved"),
    ],
)
def test_other_addresses_are_refused(address: str, says: str) -> None:
    fault = check_address(address)
    assert says in fault
    assert len(fault) < 300


_ACTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "remove_link"]),
        st.integers(0, 2),
        st.integers(1, 3),
        st.sampled_from(["", "a", "a/b"]),
        st.frozensets(st.sampled_from(["s", "t", "u"]), min_size=1),
    ),
    max_size=30,
)


@given(_ACTS)
def test_router_agrees_with_a_plain_list(
    acts: list[tuple[str, int, int, str, frozenset[str]]],
) -> None:
    router = _router()
    links = [_link() for _ in range(3)]
    model: dict[tuple[int, int], tuple[str, frozenset[str]]] = {}
    for act, index, announcement_id, address, services in acts:
        if act == "add" and (index, announcement_id) not in model:
            router.add(links[index], announcement_id, address, services)
            model[index, announcement_id] = (address, services)
        elif act == "remove":
            router.remove(links[index], announcement_id)
            model.pop((index, announcement_id), None)
        elif act == "remove_link":
            router.remove_link(links[index])
            model = {key: value for key, value in model.items() if key[0] != index}
        for where in ("a", "a/b", "s", "t"):
            for service in "stu":
                hosts = {
                    key[0]
                    for key, (at, serves) in model.items()
                    if service in serves and (at or service) == where
                }
                choice = router.pick(where, f"{service}/M")
                if hosts:
                    assert links.index(_picked(choice).link) in hosts
                else:
                    listens = any(
                        (at or name) == where
                        for at, serves in model.values()
                        for name in serves
                    )
                    assert isinstance(choice, RoutingRefusal)
                    assert (choice.status == STATUS_UNIMPLEMENTED) == listens
    for link in links:
        router.remove_link(link)
    assert not router.registrations
    assert not router._by_place
    assert not router._services_by_address
