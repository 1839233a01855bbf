"""
Which link a carrier belongs to. Goal: every first batch gets the answer link.proto says, and a
wrong one harms no link. Method: hand-written frames, a table of answers.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from relayrpc.hub.links import Accepted, LinkTable, Refused
from relayrpc.limits import DEFAULT_LIMITS, KIB, Limits
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.link_pair import open_call, take_batches


def _table(limits: Limits = DEFAULT_LIMITS) -> LinkTable:
    return LinkTable(limits=limits, token_bytes=random.Random(5).randbytes)


def _batch(*frames: pb.Frame, **header: int) -> bytes:
    return pb.Batch(frames=frames, **header).SerializeToString()


def _hello(**fields: object) -> bytes:
    parts: dict[str, object] = {"versions": [1], "instance": "host-1"}
    return _batch(pb.Frame(hello=pb.Hello(**{**parts, **fields})))  # type: ignore[arg-type]


_PEER = "test:1"


def _first(table: LinkTable, data: bytes, *, now_s: float = 50.0) -> Accepted | Refused:
    return table.first_batch(data, peer=_PEER, websocket_url="ws://hub", now_s=now_s)


def _accept(table: LinkTable, **fields: object) -> Accepted:
    accepted = _first(table, _hello(**fields))
    assert isinstance(accepted, Accepted), accepted
    return accepted


def _resume(link: Link, **fields: object) -> bytes:
    parts: dict[str, object] = {
        "link_id": link.link_id,
        "secret": link.secret,
        "epoch": link.epoch,
        "attempt": 1,
        "instance": link.instance,
    }
    return _batch(pb.Frame(resume=pb.Resume(**{**parts, **fields})))  # type: ignore[arg-type]


def _answer(decision: Accepted | Refused) -> pb.Frame:
    assert isinstance(decision, Refused), decision
    (frame,) = pb.Batch.FromString(decision.batch).frames
    return frame


def test_hello_is_answered_by_welcome_with_a_new_id_and_secret() -> None:
    table = _table()
    link = _accept(table).link
    (batch,) = take_batches(link)
    (frame,) = pb.Batch.FromString(batch).frames
    welcome = frame.welcome
    assert (welcome.version, welcome.epoch) == (1, table.epoch)
    assert (welcome.link_id, welcome.secret) == (link.link_id, link.secret)
    assert (len(welcome.link_id), len(welcome.secret), len(welcome.epoch)) == (16, 32, 16)
    assert welcome.resume_window_ms == 30_000
    assert welcome.websocket_url == "ws://hub"
    assert welcome.limits.batch_bytes_max == 256 * KIB
    other = _accept(table, instance="host-2").link
    assert other.link_id != link.link_id
    assert other.secret != link.secret
    assert table.links == [link, other]


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"\xff\xff", "CODE_PROTOCOL_ERROR", "no batch"),
        (bytes(256 * KIB + 1), "CODE_PROTOCOL_ERROR", "over the agreed"),
        (_batch(), "CODE_PROTOCOL_ERROR", "nothing where hello or resume was due"),
        (_batch(pb.Frame()), "CODE_PROTOCOL_ERROR", "nothing where hello"),
        (_batch(pb.Frame(welcome=pb.Welcome())), "CODE_PROTOCOL_ERROR", "welcome where hello"),
        (_batch(pb.Frame(ping=1)), "CODE_PROTOCOL_ERROR", "ping where hello"),
        (_batch(pb.Frame(data=b"x", call_id=1)), "CODE_PROTOCOL_ERROR", "data where hello"),
        (
            _batch(pb.Frame(hello=pb.Hello(versions=[1], instance="i")), number=1),
            "CODE_PROTOCOL_ERROR",
            "hello where hello",
        ),
        (_batch(*[pb.Frame(hello=pb.Hello())] * 2), "CODE_PROTOCOL_ERROR", "hello or resume"),
        (_hello(instance=""), "CODE_PROTOCOL_ERROR", "instance id"),
        (_hello(instance="i" * 129), "CODE_PROTOCOL_ERROR", "instance id"),
        (_hello(instance="a b"), "CODE_PROTOCOL_ERROR", "instance id"),
        (_hello(instance="a\n"), "CODE_PROTOCOL_ERROR", "instance id"),
        (_hello(versions=[1] * 17), "CODE_PROTOCOL_ERROR", "too many versions"),
        (_hello(features=["f"] * 65), "CODE_PROTOCOL_ERROR", "too many versions or features"),
        (_hello(versions=[]), "CODE_VERSION", "no version"),
        (_hello(versions=[2, 3]), "CODE_VERSION", "versions [2, 3]"),
        (
            _hello(limits=pb.LinkLimits(batch_bytes_max=1000)),
            "CODE_PROTOCOL_ERROR",
            "limit of 1000",
        ),
        (
            _hello(limits=pb.LinkLimits(initial_credit_bytes=1)),
            "CODE_PROTOCOL_ERROR",
            "limit of 1 ",
        ),
    ],
)
def test_wrong_first_batch_is_answered_by_close(data: bytes, code: str, says: str) -> None:
    table = _table()
    frame = _answer(_first(table, data))
    assert frame.close.code == pb.Close.Code.Value(code)
    assert says in frame.close.reason
    assert len(table) == 0


def test_unknown_features_and_newer_versions_beside_ours_are_taken() -> None:
    link = _accept(_table(), versions=[7, 1], features=["later"]).link
    assert link.version == 1


def test_more_links_than_the_hub_holds_are_refused_but_not_takeovers() -> None:
    table = _table(dataclasses.replace(DEFAULT_LIMITS, links_max=2))
    _accept(table, instance="a")
    old = _accept(table, instance="b").link
    frame = _answer(_first(table, _hello(instance="c")))
    assert frame.close.code == pb.Close.CODE_LIMIT
    new = _accept(table, instance="b").link
    # One at a time.
    frame = _answer(_first(table, _hello(instance="b")))
    assert frame.close.code == pb.Close.CODE_LIMIT
    assert table.heard_of(new, now_s=0.0) is old
    assert len(table) == 2


def test_new_link_of_an_instance_replaces_the_old_one_when_its_peer_is_heard_of() -> None:
    table = _table()
    old = _accept(table).link
    new = _accept(table).link
    assert table.links == [old, new]
    assert old.state is LinkState.OPEN
    assert table.heard_of(old, now_s=0.0) is None
    assert table.heard_of(new, now_s=0.0) is old
    assert table.heard_of(new, now_s=0.0) is None
    assert old.state is LinkState.CLOSED
    assert table.links == [new]
    (batch,) = take_batches(old)
    (frame,) = pb.Batch.FromString(batch).frames
    assert frame.close.code == pb.Close.CODE_REPLACED
    # The old link's end comes late, and must not take the new one out.
    table.remove(old)
    assert table.links == [new]
    assert _answer(_first(table, _resume(old))).HasField("expired")


def test_hello_of_a_dead_process_that_arrives_late_puts_nobody_out() -> None:
    table = _table()
    living = _accept(table).link
    late = _accept(table).link
    table.remove(late)
    assert table.links == [living]
    assert not table.has_newcomers
    assert table.heard_of(_accept(table).link, now_s=0.0) is living


def _take_over(table: LinkTable, now_s: float) -> None:
    assert table.heard_of(_accept(table).link, now_s=now_s) is not None


def test_third_takeover_within_a_minute_is_refused_and_names_both_peers() -> None:
    table = _table()
    _accept(table)
    _take_over(table, 0.0)
    _take_over(table, 30.0)
    close = _answer(_first(table, _hello(), now_s=59.0)).close
    assert close.code == pb.Close.CODE_REFUSED
    assert "replaced each other 2 times within 60 s" in close.reason
    assert close.reason.count(_PEER) == 2
    assert isinstance(_first(table, _hello(), now_s=60.0), Accepted)


def test_process_that_comes_back_after_its_connection_was_lost_is_no_clone() -> None:
    table = _table()
    link = _accept(table).link
    for now_s in range(5):
        link.state = LinkState.PARKED
        newer = _accept(table).link
        assert table.heard_of(newer, now_s=float(now_s)) is link
        link = newer


def test_resume_of_a_known_link_takes_the_carrier() -> None:
    table = _table()
    link = _accept(table).link
    decision = _first(table, _resume(link, attempt=3))
    assert isinstance(decision, Accepted)
    assert (decision.link, decision.attempt, decision.is_new) == (link, 3, False)
    assert link.peer_address == "test:1"
    (batch,) = take_batches(link)
    (frame,) = pb.Batch.FromString(batch).frames
    assert frame.HasField("welcome")
    assert not frame.welcome.secret


@pytest.mark.parametrize(
    "wrong",
    [
        {"link_id": bytes(16)},
        {"link_id": b""},
        {"secret": bytes(32)},
        {"secret": b""},
        {"epoch": bytes(16)},
        {"epoch": b""},
        {"instance": "somebody"},
    ],
    ids=str,
)
def test_resume_with_a_wrong_field_is_told_nothing_but_expired(wrong: dict[str, object]) -> None:
    table = _table()
    link = _accept(table).link
    frame = _answer(_first(table, _resume(link, **wrong)))
    assert frame.expired.reason == "unknown link"
    assert table.links == [link]
    assert link.state is LinkState.OPEN
    assert link.attempt == 0
    # Its owner resumes as if nothing had been.
    assert isinstance(_first(table, _resume(link)), Accepted)


def test_resume_to_another_run_of_the_hub_is_expired() -> None:
    link = _accept(_table()).link
    other = LinkTable(limits=DEFAULT_LIMITS, token_bytes=random.Random(6).randbytes)
    assert _answer(_first(other, _resume(link))).HasField("expired")


@pytest.mark.parametrize("attempt", [0, 2**63, 2**64 - 1])
def test_resume_with_an_attempt_out_of_range_is_a_protocol_error(attempt: int) -> None:
    table = _table()
    link = _accept(table).link
    frame = _answer(_first(table, _resume(link, attempt=attempt)))
    assert frame.close.code == pb.Close.CODE_PROTOCOL_ERROR
    assert link.state is LinkState.OPEN


@pytest.mark.parametrize("attempt", [4, 5])
def test_resume_must_be_above_every_attempt_taken(attempt: int) -> None:
    table = _table()
    link = _accept(table).link
    assert isinstance(_first(table, _resume(link, attempt=5)), Accepted)
    frame = _answer(_first(table, _resume(link, attempt=attempt)))
    assert frame.close.code == pb.Close.CODE_PROTOCOL_ERROR
    assert link.attempt == 5
    assert link.state is LinkState.OPEN


def _link_with_two_batches(table: LinkTable) -> Link:
    link = _accept(table).link
    take_batches(link)
    for _ in range(2):
        open_call(link, data=b"x")
        take_batches(link)
    return link


def test_resume_at_a_batch_that_was_never_sent_is_expired() -> None:
    table = _table()
    link = _link_with_two_batches(table)
    frame = _answer(_first(table, _resume(link, received=3)))
    assert "no longer held" in frame.expired.reason
    assert isinstance(_first(table, _resume(link, received=2)), Accepted)


def test_resume_goes_on_behind_what_was_acknowledged_after_it_was_sent() -> None:
    """The ack came by the older carrier, while RESUME was on its way by the new one."""
    table = _table()
    link = _link_with_two_batches(table)
    link.receive_batch(_batch(ack=1), attempt=0, now_s=50.0)
    assert isinstance(_first(table, _resume(link, received=0)), Accepted)
    _, again = [pb.Batch.FromString(batch) for batch in take_batches(link)]
    assert again.number == 2


def test_removing_a_link_is_idempotent() -> None:
    table = _table()
    link = _accept(table).link
    table.remove(link)
    table.remove(link)
    assert len(table) == 0
    assert table.heard_of(_accept(table).link, now_s=50.0) is None


def _park(table: LinkTable, instance: str, held_bytes: int) -> Link:
    """Park a link that holds this much towards its peer."""
    link = _accept(table, instance=instance).link
    take_batches(link)
    link.has_carried = True
    assert link.budget is not None
    call = open_call(link, data=b"x")
    link.budget.charge(call, held_bytes)
    link.carrier_lost(0, now_s=50.0)
    assert link.state is LinkState.PARKED
    return link


def test_nothing_expires_while_parked_links_keep_what_they_may() -> None:
    table = _table()
    _park(table, "a", 1000)
    _accept(table, instance="open")
    assert table.links_to_expire() == []


def test_oldest_link_of_the_heaviest_identity_expires_first() -> None:
    limits = dataclasses.replace(
        DEFAULT_LIMITS, parked_bytes_max=100 * KIB, parked_identity_bytes_max=60 * KIB
    )
    table = _table(limits)
    light = _park(table, "light", 10 * KIB)
    heavy = _park(table, "heavy", 59 * KIB)
    assert table.links_to_expire() == []
    middle = _park(table, "middle", 40 * KIB)
    assert table.links_to_expire() == [heavy]
    # The one who alone keeps too much goes, too.
    table.remove(heavy)
    lonely = _park(table, "lonely", 61 * KIB)
    assert table.links_to_expire() == [lonely]
    assert light.state is middle.state is LinkState.PARKED


def test_everything_parked_may_have_to_go() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, parked_bytes_max=0, parked_identity_bytes_max=0)
    table = _table(limits)
    links = [_park(table, name, 1000) for name in ("a", "b")]
    assert table.links_to_expire() == links
