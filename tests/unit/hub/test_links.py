"""
Which link a carrier belongs to. Goal: only who made a link can resume it, and a refusal tells
nothing. Method: the first batch of a carrier, by hand.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from relayrpc.errors import AbuseError, FrameDecodeError, ProtocolError, RelayError, VersionError
from relayrpc.hub.links import Accepted, LinkTable, Refused
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.frames import encode_unnumbered
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb


def _table(limits: Limits = DEFAULT_LIMITS) -> LinkTable:
    return LinkTable(limits=limits, token_bytes=random.Random(1).randbytes)


def _first(table: LinkTable, *frames: pb.Frame) -> Accepted | Refused:
    return table.first_batch(
        encode_unnumbered(*frames), peer="ipv4:127.0.0.1:1", websocket_url="", now_s=1.0
    )


def _hello(table: LinkTable, instance: str = "i", **parts: object) -> Accepted | Refused:
    hello = pb.Hello(**{"versions": [1], "instance": instance, **parts})  # type: ignore[arg-type]
    return _first(table, pb.Frame(hello=hello))


def _link(table: LinkTable, instance: str = "i") -> Link:
    decision = _hello(table, instance)
    assert isinstance(decision, Accepted)
    assert decision.is_new
    return decision.link


def _resume(table: LinkTable, link: Link, **parts: object) -> Accepted | Refused:
    right = {
        "link_id": link.link_id,
        "secret": link.secret,
        "epoch": link.epoch,
        "attempt": 1,
        "instance": link.instance,
    }
    return _first(table, pb.Frame(resume=pb.Resume(**{**right, **parts})))  # type: ignore[arg-type]


def _park(link: Link, kept_bytes: int) -> None:
    """Lose the carrier of a link that keeps a batch."""
    link.has_carried = True
    link.log.add(bytes(kept_bytes), now_s=1.0)
    link.carrier_lost(link.attempt, now_s=1.0)
    assert link.state is LinkState.PARKED


def test_hello_makes_a_link_with_secrets_of_its_own() -> None:
    table = _table()
    left, right = _link(table, "l"), _link(table, "r")
    assert table.links == [left, right]
    assert (len(left.link_id), len(left.secret)) == (16, 32)
    assert left.link_id != right.link_id
    assert left.secret != right.secret
    assert left.epoch == right.epoch == table.epoch


def test_resume_takes_the_carrier_for_the_same_link() -> None:
    table = _table()
    link = _link(table)
    decision = _resume(table, link)
    assert isinstance(decision, Accepted)
    assert (decision.link, decision.attempt, decision.is_new) == (link, 1, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"link_id": bytes(16)},
        {"link_id": b""},
        {"secret": bytes(32)},
        {"secret": b""},
        {"epoch": bytes(16)},
        {"epoch": b""},
        {"instance": "other"},
    ],
    ids=str,
)
def test_resume_by_anybody_else_gets_one_answer_and_does_no_harm(wrong: dict[str, object]) -> None:
    table = _table()
    link = _link(table)
    decision = _resume(table, link, **wrong)
    assert isinstance(decision, Refused)
    assert pb.Batch.FromString(decision.batch) == pb.Batch(
        frames=[pb.Frame(expired=pb.Expired(reason="unknown link"))]
    )
    assert link.state is LinkState.OPEN
    assert isinstance(_resume(table, link), Accepted)


def test_resume_of_a_batch_never_sent_is_expired() -> None:
    table = _table()
    decision = _resume(table, _link(table), received=5)
    assert isinstance(decision, Refused)
    assert pb.Batch.FromString(decision.batch).frames[0].HasField("expired")


@pytest.mark.parametrize("attempt", [0, 1, 2, 2**63])
def test_resume_attempt_that_is_not_above_the_last_is_refused(attempt: int) -> None:
    table = _table()
    link = _link(table)
    assert isinstance(_resume(table, link, attempt=2), Accepted)
    decision = _resume(table, link, attempt=attempt)
    assert isinstance(decision, Refused)
    close = pb.Batch.FromString(decision.batch).frames[0].close
    assert close.code == pb.Close.CODE_PROTOCOL_ERROR
    assert link.state is LinkState.OPEN
    assert link.attempt == 2


def test_new_link_of_an_instance_replaces_the_old_one() -> None:
    table = _table()
    old = _link(table)
    decision = _hello(table)
    assert isinstance(decision, Accepted)
    assert decision.replaced is old
    assert old.state is LinkState.CLOSED
    assert table.links == [decision.link]
    farewell = old.batch_to_send(attempt=0, now_s=1.0)
    assert farewell is not None
    closes = [frame.close for frame in pb.Batch.FromString(farewell).frames]
    assert [close.code for close in closes] == [pb.Close.CODE_REPLACED]
    # What comes of the old one's end must not touch the new one.
    table.remove(old)
    assert table.links == [decision.link]
    assert isinstance(_resume(table, old), Refused)


def test_hub_that_is_full_takes_no_link_but_a_replacement() -> None:
    table = _table(dataclasses.replace(DEFAULT_LIMITS, links_max=1))
    _link(table, "l")
    decision = _hello(table, "r")
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, AbuseError)
    close = pb.Batch.FromString(decision.batch).frames[0].close
    assert close.code == pb.Close.CODE_LIMIT
    assert isinstance(_hello(table, "l"), Accepted)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"versions": []}, VersionError),
        ({"versions": [2]}, VersionError),
        ({"versions": [1] * 17}, FrameDecodeError),
        ({"features": ["f"] * 65}, FrameDecodeError),
        ({"instance": ""}, FrameDecodeError),
        ({"instance": "a/b"}, FrameDecodeError),
        ({"instance": "a\n"}, FrameDecodeError),
        ({"instance": "a" * 129}, FrameDecodeError),
        ({"limits": pb.LinkLimits(batch_bytes_max=1000)}, FrameDecodeError),
        ({"limits": pb.LinkLimits(initial_credit_bytes=1)}, FrameDecodeError),
    ],
    ids=str,
)
def test_hello_that_breaks_the_rules_is_refused(
    parts: dict[str, object], error: type[RelayError]
) -> None:
    table = _table()
    decision = _hello(table, **parts)  # type: ignore[arg-type]
    assert isinstance(decision, Refused)
    assert type(decision.error) is error
    assert pb.Batch.FromString(decision.batch).frames[0].HasField("close")
    assert not len(table)


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        b"\xff\xff",
        encode_unnumbered(pb.Frame(ping=1)),
        encode_unnumbered(pb.Frame(welcome=pb.Welcome())),
        encode_unnumbered(pb.Frame(hello=pb.Hello()), pb.Frame(hello=pb.Hello())),
        pb.Batch(number=1, frames=[pb.Frame(hello=pb.Hello())]).SerializeToString(),
        bytes(DEFAULT_LIMITS.batch_bytes_max + 1),
    ],
    ids=["empty", "garbage", "ping", "welcome", "two", "numbered", "too large"],
)
def test_first_batch_that_is_no_handshake_is_refused(batch: bytes) -> None:
    table = _table()
    decision = table.first_batch(batch, peer="p", websocket_url="", now_s=1.0)
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, ProtocolError)
    assert not len(table)


def test_oldest_parked_link_of_the_heaviest_identity_expires_first() -> None:
    limits = dataclasses.replace(
        DEFAULT_LIMITS, parked_bytes_max=100, parked_identity_bytes_max=90
    )
    table = _table(limits)
    links = {name: _link(table, name) for name in ("a", "b", "c", "open")}
    _park(links["a"], 30)
    _park(links["b"], 60)
    assert table.links_to_expire() == []
    links["open"].log.add(bytes(1000), now_s=1.0)
    _park(links["c"], 50)
    assert table.links_to_expire() == [links["b"]]


def test_identity_that_keeps_more_than_its_part_expires() -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, parked_identity_bytes_max=40)
    table = _table(limits)
    light, heavy = _link(table, "light"), _link(table, "heavy")
    _park(light, 40)
    _park(heavy, 41)
    assert table.links_to_expire() == [heavy]
