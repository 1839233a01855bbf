"""
Which host serves a call. Goal: the choice and every refusal follow LINK.md, and nothing is left of
a host that went. Method: tables, and a Hypothesis walk against a plain model.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.hub.routing import Lack, Registration, Router, RoutingRefusal
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.call import STATUS_UNAVAILABLE, STATUS_UNIMPLEMENTED
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb


def _link(state: LinkState = LinkState.OPEN, limits: Limits = DEFAULT_LIMITS) -> Link:
    link = Link(is_dialler=False, limits=limits, instance="i", now_s=0.0)
    link.state = state
    return link


def _router() -> Router:
    return Router(random=random.Random(3))


def _add(
    router: Router,
    link: Link,
    announcement_id: int,
    address: str,
    services: frozenset[str],
    *,
    default_address: str = "",
    **options: int,
) -> Registration:
    described = [
        pb.ServiceDescription(name=name, default_address=default_address)
        for name in sorted(services)
    ]
    announce = pb.Announce(
        id=announcement_id, address=address, services=described, **options
    )
    return router.add(link, announce)


def _picked(choice: Registration | RoutingRefusal) -> Registration:
    assert isinstance(choice, Registration), choice
    return choice


def _lack(choice: Registration | RoutingRefusal) -> Lack:
    assert isinstance(choice, RoutingRefusal), choice
    return choice.lack


def test_host_is_found_by_address_and_service() -> None:
    router = _router()
    link = _link()
    _add(router, link, 1, "a/b", frozenset({"s.One", "s.Two"}))
    for service in ("s.One", "s.Two"):
        assert _picked(router.pick("a/b", f"{service}/M")).link is link


@pytest.mark.parametrize(
    ("address", "method", "status", "says"),
    [
        ("a/b", "s.Three/M", STATUS_UNIMPLEMENTED, "no host at 'a/b' serves 's.Three'"),
        ("a", "s.One/M", STATUS_UNAVAILABLE, "no host listens at 'a'"),
        ("a/bc", "s.One/M", STATUS_UNAVAILABLE, "no host listens at 'a/bc'"),
        ("a/b/c", "s.Three/M", STATUS_UNIMPLEMENTED, "no host at 'a/b/c' serves 's.Three'"),
        ("", "s.One/M", STATUS_UNAVAILABLE, "no host listens at ''"),
    ],
)
def test_call_without_a_host_is_refused(
    address: str, method: str, status: int, says: str
) -> None:
    router = _router()
    _add(router, _link(), 1, "a/b", frozenset({"s.One", "s.Two"}))
    refusal = router.pick(address, method)
    assert isinstance(refusal, RoutingRefusal)
    assert (refusal.status, refusal.details) == (status, says)


def test_host_without_an_address_stands_at_the_name_of_each_service() -> None:
    router = _router()
    _add(router, _link(), 1, "", frozenset({"s.One", "s.Two"}))
    assert isinstance(router.pick("s.One", "s.One/M"), Registration)
    refusal = router.pick("s.One", "s.Two/M")
    assert isinstance(refusal, RoutingRefusal)
    assert refusal.status == STATUS_UNIMPLEMENTED


def test_host_with_a_carrier_goes_before_a_parked_one_and_idle_before_busy() -> None:
    router = _router()
    parked, busy, idle = _link(LinkState.PARKED), _link(), _link()
    for link in (parked, busy, idle):
        _add(router, link, 1, "a", frozenset({"s"}))
    _, second, _ = router.registrations
    second.calls_open_count = 1
    assert _picked(router.pick("a", "s/M")).link is idle
    router.remove_link(idle)
    assert _picked(router.pick("a", "s/M")).link is busy
    router.remove_link(busy)
    refusal = router.pick("a", "s/M")
    assert isinstance(refusal, RoutingRefusal)
    assert refusal.lack is Lack.PARKED


def test_longest_prefix_that_serves_the_service_is_chosen() -> None:
    router = _router()
    short, long, other = _link(), _link(), _link()
    _add(router, short, 1, "a", frozenset({"s"}))
    _add(router, long, 1, "a/b", frozenset({"s"}))
    _add(router, other, 1, "a/b/c", frozenset({"t"}))
    assert _picked(router.pick("a/b/c/d", "s/M")).link is long
    assert _picked(router.pick("a/x", "s/M")).link is short
    assert _picked(router.pick("a/b/c/d", "t/M")).link is other


def test_host_without_an_address_stands_at_the_default_of_its_contract() -> None:
    router = _router()
    link = _link()
    registration = _add(router, link, 1, "", frozenset({"s"}), default_address="a/b")
    assert registration.places == [("a/b", "s")]
    assert router.place_of("a/b", "s/M") == ("a/b", "s")
    assert router.services_at("a/b") == {"s"}


def test_call_without_an_address_goes_to_the_default_that_was_announced_last() -> None:
    router = _router()
    links = [_link() for _ in range(3)]
    _add(router, links[0], 1, "", frozenset({"s"}), default_address="a")
    _add(router, links[1], 1, "", frozenset({"s"}), default_address="b")
    assert router.place_of("s", "s/M") == ("b", "s")
    _add(router, links[2], 1, "", frozenset({"s"}), default_address="a")
    assert router.place_of("s", "s/M") == ("a", "s")
    router.remove_link(links[0])
    router.remove_link(links[2])
    assert router.place_of("s", "s/M") == ("b", "s")
    router.remove_link(links[1])
    assert router.place_of("s", "s/M") is None
    assert router.pick("s", "s/M") == router.pick("s", "s/N")


def test_hosts_at_a_services_name_go_before_its_default_address() -> None:
    router = _router()
    named, declared = _link(), _link()
    _add(router, declared, 1, "", frozenset({"s"}), default_address="a")
    _add(router, named, 1, "", frozenset({"s"}))
    assert _picked(router.pick("s", "s/M")).link is named
    assert _picked(router.pick("a", "s/M")).link is declared


def test_default_address_counts_wherever_its_host_stands() -> None:
    router = _router()
    _add(router, _link(), 1, "x", frozenset({"s"}), default_address="a/b")
    refusal = router.pick("s", "s/M")
    assert isinstance(refusal, RoutingRefusal)
    assert (refusal.lack, refusal.place) == (Lack.ABSENT, ("a/b", "s"))
    above = _add(router, _link(), 1, "a", frozenset({"s"}))
    assert _picked(router.pick("s", "s/M")) is above


def test_default_address_that_is_the_services_name_leads_nowhere_else() -> None:
    router = _router()
    _add(router, _link(), 1, "x", frozenset({"s"}), default_address="s")
    assert _lack(router.pick("s", "s/M")) is Lack.ABSENT


def test_nothing_is_looked_for_above_what_is_too_long_for_an_address() -> None:
    router = _router()
    _add(router, _link(), 1, "a", frozenset({"s"}))
    longest, longer = "a/" * 255 + "aa", "a/" * 256 + "a"
    assert router.place_of(longest, "s/M") == ("a", "s")
    assert router.place_of(longer, "s/M") is None
    assert _lack(router.pick(longer, "s/M")) is Lack.ABSENT
    assert _lack(router.pick(longer, "t/M")) is Lack.ABSENT


def test_full_hosts_get_no_calls_and_standbys_wait_for_the_loss_of_a_host() -> None:
    router = _router()
    first, second, standby = _link(), _link(), _link()
    busy = _add(router, first, 1, "a", frozenset({"s"}), slots=2)
    busy.calls_open_count = 2
    idle = _add(router, second, 1, "a", frozenset({"s"}), slots=9)
    idle.calls_open_count = 8
    _add(router, standby, 1, "a", frozenset({"s"}), priority=1)
    assert _picked(router.pick("a", "s/M")) is idle
    idle.calls_open_count = 9
    assert _lack(router.pick("a", "s/M")) is Lack.BUSY
    for link in (first, second):
        link.state = LinkState.PARKED
    assert _picked(router.pick("a", "s/M")).link is standby
    standby.is_draining = True
    assert _lack(router.pick("a", "s/M")) is Lack.PARKED
    for link in (first, second):
        router.remove_link(link)
    assert _lack(router.pick("a", "s/M")) is Lack.LEAVING


@pytest.mark.parametrize("is_reversed", [False, True])
def test_refusal_names_the_host_nearest_to_taking_the_call(is_reversed: bool) -> None:
    router = _router()
    full = _link(limits=replace(DEFAULT_LIMITS, calls_open_max=0))
    busy, leaving = _link(), _link()
    leaving.is_draining = True
    links = [busy, full, _link(LinkState.PARKED), leaving, _link(LinkState.CLOSED)]
    for link in reversed(links) if is_reversed else links:
        _add(router, link, 1, "a", frozenset({"s"}), slots=1).calls_open_count = 1
    for lack in (Lack.BUSY, Lack.FULL, Lack.PARKED, Lack.LEAVING, Lack.ABSENT):
        assert _lack(router.pick("a", "s/M")) is lack
        router.remove_link(links.pop(0))


def test_drained_host_gets_no_calls() -> None:
    router = _router()
    only = _add(router, _link(), 1, "a", frozenset({"s"}))
    only.is_drained = True
    assert _lack(router.pick("a", "s/M")) is Lack.LEAVING


def test_call_may_name_its_host_instance() -> None:
    router = _router()
    links = [_link() for _ in range(3)]
    for number, link in enumerate(links):
        link.instance = f"i{number}"
        _add(router, link, 1, "a", frozenset({"s"}))
    assert _picked(router.pick("a", "s/M", instance="i1")).link is links[1]
    refusal = router.pick("a", "s/M", instance="i9")
    assert isinstance(refusal, RoutingRefusal)
    assert refusal.details == "no host listens at 'a' with instance 'i9'"
    links[1].state = LinkState.PARKED
    assert _lack(router.pick("a", "s/M", instance="i1")) is Lack.PARKED


def test_sticky_key_keeps_its_host_while_others_come_and_go() -> None:
    router = _router()
    links = [_link() for _ in range(5)]
    for number, link in enumerate(links):
        link.instance = f"i{number}"
        _add(router, link, 1, "a", frozenset({"s"}))
    keys = [f"key {number}" for number in range(200)]

    def hosts() -> dict[str, Link]:
        return {key: _picked(router.pick("a", "s/M", sticky_key=key)).link for key in keys}

    before = hosts()
    assert set(before.values()) == set(links)
    assert hosts() == before
    router.remove_link(links[2])
    moved = {key for key, link in hosts().items() if before[key] is not link}
    assert moved == {key for key, link in before.items() if link is links[2]}


def test_sticky_call_waits_for_its_host_rather_than_go_to_another() -> None:
    router = _router()
    for number in range(2):
        link = _link()
        link.instance = f"i{number}"
        _add(router, link, 1, "a", frozenset({"s"}), slots=1)
    chosen = _picked(router.pick("a", "s/M", sticky_key="k"))
    chosen.calls_open_count = 1
    assert _lack(router.pick("a", "s/M", sticky_key="k")) is Lack.BUSY


def test_shape_is_what_hosts_announced_unless_they_contradict_each_other() -> None:
    router = _router()
    methods = [pb.Method(name="M", shape=pb.SHAPE_UNARY_STREAM), pb.Method(name="N", shape=1)]
    service = pb.ServiceDescription(name="s", methods=methods)
    router.add(_link(), pb.Announce(id=1, address="a", services=[service]))
    assert router.shape("a", "s/M") == pb.SHAPE_UNARY_STREAM
    assert router.shape("a/b", "s/M") == pb.SHAPE_UNARY_STREAM
    assert router.shape("a", "s/O") == router.shape("x", "s/M") == pb.SHAPE_UNKNOWN
    methods[0].shape = pb.SHAPE_UNARY_UNARY
    service = pb.ServiceDescription(name="s", methods=methods)
    router.add(_link(), pb.Announce(id=1, address="a", services=[service]))
    assert router.shape("a", "s/M") == pb.SHAPE_UNKNOWN
    assert router.shape("a", "s/N") == pb.SHAPE_UNARY_UNARY


def test_ties_are_drawn_from_all_that_are_equal() -> None:
    router = _router()
    for _ in range(3):
        _add(router, _link(), 1, "a", frozenset({"s"}))
    picked = {id(_picked(router.pick("a", "s/M"))) for _ in range(50)}
    assert len(picked) == 3


def test_removing_takes_out_that_registration_and_no_other() -> None:
    router, left, right = _router(), _link(), _link()
    _add(router, left, 1, "a", frozenset({"s"}))
    _add(router, left, 2, "b", frozenset({"s"}))
    _add(router, right, 1, "a", frozenset({"s"}))
    router.remove(left, 1)
    router.remove(left, 1)
    assert _picked(router.pick("a", "s/M")).link is right
    assert _picked(router.pick("b", "s/M")).link is left


def test_removing_what_is_not_there_does_nothing() -> None:
    router = _router()
    link = _link()
    router.remove(link, 1)
    _add(router, link, 1, "a", frozenset({"s"}))
    router.remove(link, 2)
    assert len(router.registrations) == 1


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


def _hosts(
    model: dict[tuple[int, int], tuple[str, frozenset[str]]], where: str, service: str
) -> set[int]:
    """Who serves a service at the longest prefix of a path, by looking at everything."""
    while where:
        hosts = {
            index
            for (index, _), (at, serves) in model.items()
            if service in serves and (at or service) == where
        }
        if hosts:
            return hosts
        where = where.rpartition("/")[0]
    return set()


@given(_ACTS)
def test_router_agrees_with_a_plain_list(
    acts: list[tuple[str, int, int, str, frozenset[str]]],
) -> None:
    router = _router()
    links = [_link() for _ in range(3)]
    model: dict[tuple[int, int], tuple[str, frozenset[str]]] = {}
    for act, index, announcement_id, address, services in acts:
        if act == "add" and (index, announcement_id) not in model:
            _add(router, links[index], announcement_id, address, services)
            model[index, announcement_id] = (address, services)
        elif act == "remove":
            router.remove(links[index], announcement_id)
            model.pop((index, announcement_id), None)
        elif act == "remove_link":
            router.remove_link(links[index])
            model = {key: value for key, value in model.items() if key[0] != index}
        for where in ("a", "a/b", "a/b/c", "s", "t"):
            for service in "stu":
                choice = router.pick(where, f"{service}/M")
                hosts = _hosts(model, where, service)
                if hosts:
                    assert links.index(_picked(choice).link) in hosts
                else:
                    listens = any(_hosts(model, where, name) for name in "stu")
                    assert isinstance(choice, RoutingRefusal)
                    assert (choice.status == STATUS_UNIMPLEMENTED) == listens
    for link in links:
        router.remove_link(link)
    assert not router.registrations
    assert not router._by_place
    assert not router._by_link
    assert not router._services_by_address


def test_services_at_an_address_are_those_that_calls_reach() -> None:
    router = _router()
    link = _link()
    _add(router, link, 1, "a", frozenset({"s.One"}))
    _add(router, link, 2, "a/b", frozenset({"s.Two"}))
    _add(router, link, 3, "", frozenset({"s.Three"}))
    assert router.services_at("a/b/c") == {"s.One", "s.Two"}
    assert router.services_at("a") == {"s.One"}
    assert router.services_at("ab") == set()
    assert router.services_at("s.Three") == {"s.Three"}
    assert router.services_at("") == {"s.One", "s.Two", "s.Three"}
    assert [host.announce.id for host in router.hosts_of("a/b", "s.One")] == [1]
    assert router.hosts_of("a", "s.Two") == []
    router.remove_link(link)
    assert router.services_at("") == set()


def test_unannounced_host_gets_calls_and_is_in_no_list() -> None:
    router = _router()
    link, other = _link(), _link()
    other.instance = "j"
    own = router.add_unannounced(link, "$host", "s.Host")
    router.add_unannounced(other, "$host", "s.Host")
    assert _picked(router.pick("$host", "s.Host/M", instance="i")) is own
    assert router.registrations == []
    assert router.of_link(link) == []
    assert router.services_at("") == set()
    router.remove_unannounced(own)
    assert _lack(router.pick("$host", "s.Host/M", instance="i")) is Lack.ABSENT
