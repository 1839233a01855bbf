"""
Goal: whatever a peer sends, the hub answers it as link.proto says, and nobody else notices.

Method: hand-made batches over both doors of a real hub process. Around every test a neighbour calls
through the same hub, and the hub's log is searched for exceptions that went astray.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from relayrpc.v1 import link_pb2 as pb
from tests.support.raw_peer import (
    Door,
    RawCarrier,
    RawLink,
    batch,
    frame,
    hello,
    open_frame,
)


pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("nobody_else_notices"),
]

OpenCarrier = Callable[[], Awaitable[RawCarrier]]
_KIB = 1024
_UINT64_MAX = 2**64 - 1
_PROTOCOL_ERROR = pb.Close.CODE_PROTOCOL_ERROR
# Field 99 with three bytes in it: a frame body of some later version.
_UNKNOWN_BODY = b"\x22\x06\x9a\x06\x03abc"


# --- the first message ---


@dataclass(frozen=True)
class First:
    """A first message that is no handshake, and what the hub answers."""

    message: bytes
    code: pb.Close.Code = _PROTOCOL_ERROR


_FIRSTS = {
    "garbage": First(b"\xff" * 100),
    "random bytes": First(random.Random(1).randbytes(4 * _KIB)),
    "nothing": First(b""),
    "a batch without frames": First(batch(ack=7)),
    "two hellos in a batch": First(batch(hello(), hello())),
    "a numbered hello": First(batch(hello(), number=1)),
    "an open": First(batch(open_frame(), number=1)),
    "a welcome": First(batch(frame(welcome=pb.Welcome(version=1)))),
    "a ping": First(batch(frame(ping=1))),
    "an unknown body": First(_UNKNOWN_BODY),
    "an unknown version": First(batch(hello(versions=[999])), pb.Close.CODE_VERSION),
    "no version": First(batch(hello(versions=[])), pb.Close.CODE_VERSION),
    "seventeen versions": First(batch(hello(versions=range(1, 18)))),
    "too many features": First(batch(hello(features=["x"] * 65))),
    "no instance": First(batch(hello(instance=""))),
    "a long instance": First(batch(hello(instance="x" * 129))),
    "an instance with a newline": First(batch(hello(instance="x\n"))),
    "tiny batches": First(batch(hello(limits=pb.LinkLimits(batch_bytes_max=1)))),
    "tiny credit": First(batch(hello(limits=pb.LinkLimits(initial_credit_bytes=1)))),
    "text that is no UTF-8": First(b"\x22\x0a\x82\x02\x07\x1a\x05\xff\xfe\xfd\xfc\xfb"),
}


@pytest.mark.parametrize("case", list(_FIRSTS))
async def test_hub_refuses_a_first_message_that_is(case: str, open_carrier: OpenCarrier) -> None:
    first = _FIRSTS[case]
    carrier = await open_carrier()
    await carrier.send(first.message)
    last = await carrier.receive_last()
    assert last is not None
    assert (last.WhichOneof("body"), last.close.code) == ("close", first.code)
    assert last.close.reason


@pytest.mark.parametrize("size", [256 * _KIB + 1, 5 * _KIB * _KIB])
async def test_hub_drops_a_carrier_with_an_oversized_first_message(
    size: int, open_carrier: OpenCarrier
) -> None:
    carrier = await open_carrier()
    await carrier.send(bytes(size))
    last = await carrier.receive_last()
    assert last is None or last.close.code == _PROTOCOL_ERROR


# --- on a link: what ends it ---


Attack = Callable[[RawLink], Awaitable[None]]


def _numbered(*frames: pb.Frame, **header: int) -> Attack:
    async def attack(link: RawLink) -> None:
        await link.send(*frames, **header)

    return attack


def _raw(message: bytes) -> Attack:
    async def attack(link: RawLink) -> None:
        await link.carrier.send(message)

    return attack


async def _resume_own_link(link: RawLink) -> None:
    await link.carrier.send(link.resume())


async def _leave_a_gap(link: RawLink) -> None:
    await link.send(open_frame(1))
    await link.carrier.send(batch(open_frame(3), number=3))


def _announce(announcement_id: int) -> pb.Frame:
    return frame(announce=pb.Announce(id=announcement_id, services=[{"name": "a.B"}]))


_LONG_METADATA = [pb.Metadatum(key="k", value=bytes(17 * _KIB))]
_MANY_METADATA = [pb.Metadatum(key="k")] * 600

_FAULTS: dict[str, Attack] = {
    # The envelope.
    "garbage": _raw(b"\xff" * 100),
    "a cut batch": _raw(batch(open_frame(), number=1)[:-3]),
    "a gap in the numbers": _leave_a_gap,
    "the highest number": _raw(batch(open_frame(), number=_UINT64_MAX)),
    "an ack of what was never sent": _raw(batch(ack=2**40)),
    "an ack with a batch": _numbered(open_frame(), ack=2**40),
    # The handshake, again.
    "a second hello": _raw(batch(hello())),
    "a numbered hello": _numbered(hello()),
    "a hello after work": _numbered(open_frame(), hello()),
    "a resume on the same carrier": _resume_own_link,
    "a welcome": _raw(batch(frame(welcome=pb.Welcome(version=1)))),
    "an expired": _raw(batch(frame(expired=pb.Expired()))),
    "an unnumbered open": _raw(batch(open_frame())),
    "a numbered ping": _numbered(frame(ping=1)),
    "a numbered close": _numbered(frame(close=pb.Close())),
    # Call ids.
    "an open of even parity": _numbered(open_frame(2)),
    "an open of no call": _numbered(open_frame(0)),
    "a used id": _numbered(open_frame(1), open_frame(1)),
    "a smaller id": _numbered(open_frame(5), open_frame(3)),
    "data for an unknown call": _numbered(frame(7, data=b"x")),
    "data for an unknown call of the hub": _numbered(frame(8, data=b"x")),
    "data for no call": _numbered(frame(0, data=b"x")),
    "a grant for an unknown call": _numbered(frame(9, grant=1)),
    "a half close for an unknown call": _numbered(frame(9, half_close=True)),
    "a cancel for an unknown call": _numbered(frame(9, cancel=pb.Cancel())),
    "an end for an unknown call": _numbered(frame(9, end=pb.End())),
    "a begin for an unknown call": _numbered(frame(9, begin=pb.Begin())),
    # Names.
    "names out of order": _numbered(frame(name=pb.Name(number=2, text="b"))),
    "name zero": _numbered(frame(name=pb.Name(text="b"))),
    "a name defined twice": _numbered(*[frame(name=pb.Name(number=1, text="b"))] * 2),
    "a name too many": _numbered(
        *[frame(name=pb.Name(number=n, text="b")) for n in range(1, 1026)]
    ),
    "a long name": _numbered(frame(name=pb.Name(number=1, text="b" * 513))),
    "an empty name": _numbered(frame(name=pb.Name(number=1))),
    "an undefined method": _numbered(open_frame(1, method=9)),
    "an undefined address": _numbered(open_frame(1, **{"address_text": ""}, method=2**32 - 1)),
    "a long address": _numbered(open_frame(1, "a" * 513)),
    "no method": _numbered(open_frame(1, method_text="")),
    # Fields of an open.
    "an open over the initial credit": _numbered(open_frame(1, data=bytes(64 * _KIB + 1))),
    "a long order key": _numbered(open_frame(1, order_key="k" * 129)),
    "credit beyond 2^31": _numbered(open_frame(1, credit_bytes=2**31)),
    "long metadata": _numbered(open_frame(1, metadata=_LONG_METADATA)),
    "many metadata": _numbered(open_frame(1, metadata=_MANY_METADATA)),
    # Announcements.
    "an announcement without an id": _numbered(_announce(0)),
    "an announcement id twice": _numbered(_announce(3), _announce(3)),
    "a withdrawal of nothing": _numbered(frame(withdraw=pb.Withdraw(id=1))),
}


@pytest.mark.parametrize("case", list(_FAULTS))
async def test_hub_ends_a_link_for(case: str, open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await _FAULTS[case](link)
    last = await link.carrier.receive_last()
    assert last is not None
    assert (last.WhichOneof("body"), last.close.code) == ("close", _PROTOCOL_ERROR)
    assert last.close.reason
    # Over is over: what broke the protocol cannot be taken up again.
    again = await open_carrier()
    await again.send(link.resume())
    assert (await again.receive_body("expired")).expired.reason


@pytest.mark.parametrize("size", [256 * _KIB + 1, 5 * _KIB * _KIB])
async def test_hub_drops_a_carrier_with_an_oversized_batch(
    size: int, open_carrier: OpenCarrier
) -> None:
    link = await RawLink.open(await open_carrier())
    await link.carrier.send(batch(frame(1, data=bytes(size)), number=1))
    last = await link.carrier.receive_last()
    assert last is None or last.close.code == _PROTOCOL_ERROR


@pytest.mark.parametrize("door", ["websocket"])
async def test_hub_takes_no_text_on_a_websocket(open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await link.carrier.connection.send("text")  # type: ignore[attr-defined]  # a WebSocket
    assert await link.carrier.receive_last() is None


# --- on a link: what only costs a call, or nothing ---


async def test_hub_ignores_an_unknown_body(open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await link.carrier.send(_UNKNOWN_BODY)
    link.number = 1
    await link.carrier.send(b"\x08\x01" + _UNKNOWN_BODY)
    await link.send(open_frame(1))
    assert (await link.carrier.receive_body("end")).end.origin == pb.End.ORIGIN_HUB


async def test_hub_drops_a_batch_it_has_already(open_carrier: OpenCarrier) -> None:
    """The Open in it would otherwise be a used id, which ends the link."""
    link = await RawLink.open(await open_carrier())
    await link.send(open_frame(1))
    await link.carrier.send(batch(open_frame(1), number=1))
    await link.carrier.send(batch(open_frame(1), number=1, age_ms=500))
    await link.send(open_frame(3))
    assert [(await link.carrier.receive_body("end")).call_id for _ in range(2)] == [1, 3]


@pytest.mark.parametrize(
    "late",
    [
        frame(1, data=b"x"),
        frame(1, grant=5),
        frame(1, half_close=True),
        frame(1, cancel=pb.Cancel()),
        frame(1, cancel=pb.Cancel(reason=77)),  # type: ignore[arg-type]  # an open enum
    ],
    ids=lambda late: f"{late.WhichOneof('body')}",
)
async def test_hub_drops_late_frames(late: pb.Frame, open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await link.send(open_frame(1))
    await link.carrier.receive_body("end")
    await link.send(late, late, open_frame(3))
    assert (await link.carrier.receive_body("end")).call_id == 3


@pytest.mark.parametrize("code", [-1, -(2**31), 7, 2**31 - 1])
async def test_hub_takes_a_close_with_an_unknown_code(
    code: int, open_carrier: OpenCarrier
) -> None:
    link = await RawLink.open(await open_carrier())
    await link.carrier.send(batch(frame(close=pb.Close(code=code))))  # type: ignore[arg-type]
    assert await link.carrier.receive_last() is None


async def test_hub_answers_pings_and_survives_a_flood(open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    flood = batch(*[frame(ping=number) for number in range(10_000)])
    await link.carrier.send(flood)
    await link.carrier.send(flood)
    assert (await link.carrier.receive_body("pong")).pong == 0
    await link.send(open_frame(1))
    await link.carrier.receive_body("end")


async def test_hub_refuses_calls_over_the_bound_one_by_one(open_carrier: OpenCarrier) -> None:
    host, caller = await _pair(open_carrier)
    answering = asyncio.create_task(_answer_pings(host))
    for start in range(0, 4096, 256):
        await caller.send(*[open_frame(2 * n + 1, "adversary") for n in range(start, start + 256)])
    await caller.send(open_frame(9001, "adversary"))
    refused = await caller.carrier.receive_body("end")
    assert (refused.call_id, refused.end.status, refused.end.not_executed) == (9001, 8, True)
    answering.cancel()
    await asyncio.wait([answering])
    await caller.carrier.aclose()
    await host.carrier.aclose()


async def _answer_pings(host: RawLink) -> None:
    """Stay alive, and do nothing else; a host that is silent gets no calls."""
    while (received := await host.carrier.receive_batch()) is not None:
        for each in received.frames:
            if each.HasField("ping"):
                await host.carrier.send(batch(frame(pong=each.ping)))


async def test_hub_refuses_announcements_over_the_bound(open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await link.send(*[_announce(number) for number in range(1, 1026)])
    answers = [(await link.carrier.receive_body("announced")).announced for _ in range(1025)]
    assert [answer.id for answer in answers if answer.status == 8] == [1025]
    assert {answer.id for answer in answers if answer.status == 0} == set(range(1, 1025))


@pytest.mark.parametrize(
    "announce",
    [
        pb.Announce(id=1, address="a b", services=[{"name": "a.B"}]),
        pb.Announce(id=1, address="/a", services=[{"name": "a.B"}]),
        pb.Announce(id=1, address="$relay", services=[{"name": "a.B"}]),
        pb.Announce(id=1, address="a" * 513, services=[{"name": "a.B"}]),
        pb.Announce(id=1, address="a"),
        pb.Announce(id=1, address="a", services=[{"name": f"a.B{n}"} for n in range(257)]),
    ],
    ids=["space", "slash", "reserved", "long", "no services", "many services"],
)
async def test_hub_refuses_a_bad_announcement(
    announce: pb.Announce, open_carrier: OpenCarrier
) -> None:
    link = await RawLink.open(await open_carrier())
    await link.send(frame(announce=announce))
    assert (await link.carrier.receive_body("announced")).announced.status == 3
    await link.send(open_frame(1))
    await link.carrier.receive_body("end")


# --- between two adversaries and the hub ---


async def _pair(open_carrier: OpenCarrier) -> tuple[RawLink, RawLink]:
    """A raw host at "adversary", and a raw caller."""
    host = await RawLink.open(await open_carrier())
    await host.announce("adversary", "samples.greeter.v1.Greeter")
    return host, await RawLink.open(await open_carrier())


_STREAM = {"shape": pb.SHAPE_STREAM_STREAM, "half_close": False}


async def test_hub_ends_only_the_call_whose_caller_overruns_its_credit(
    open_carrier: OpenCarrier,
) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", **_STREAM))
    await caller.send(open_frame(3, "adversary", **_STREAM))
    went = await host.carrier.receive_body("open")
    await caller.send(*[frame(1, data=bytes(60 * _KIB))] * 3)
    ended = await caller.carrier.receive_body("end")
    assert (ended.call_id, ended.end.status) == (1, 13)
    assert (await host.carrier.receive_body("cancel")).call_id == went.call_id
    await host.send(frame(went.call_id + 2, end=pb.End()))
    ended = await caller.carrier.receive_body("end")
    assert (ended.call_id, ended.end.status) == (3, 0)


async def test_hub_ends_only_the_call_whose_host_overruns_its_credit(
    open_carrier: OpenCarrier,
) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", credit_bytes=10))
    await caller.send(open_frame(3, "adversary"))
    went = await host.carrier.receive_body("open")
    await host.send(frame(went.call_id, end=pb.End(data=bytes(11))))
    ended = await caller.carrier.receive_body("end")
    assert (ended.call_id, ended.end.status) == (1, 13)
    await host.send(frame(went.call_id + 2, end=pb.End(data=bytes(11))))
    ended = await caller.carrier.receive_body("end")
    assert (ended.call_id, ended.end.status, len(ended.end.data)) == (3, 0, 11)


@pytest.mark.parametrize("credit", [0, 2**31, _UINT64_MAX])
async def test_hub_ends_a_link_for_a_grant_out_of_range(
    credit: int, open_carrier: OpenCarrier
) -> None:
    _, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", **_STREAM))
    await caller.send(frame(1, grant=credit))
    last = await caller.carrier.receive_last()
    assert last is not None
    assert last.close.code == _PROTOCOL_ERROR


_OUT_OF_STATE = {
    "data after half close": [frame(1, half_close=True), frame(1, data=b"x")],
    "half close twice": [frame(1, half_close=True)] * 2,
    "begin from the opener": [frame(1, begin=pb.Begin())],
    "end from the opener": [frame(1, end=pb.End())],
}


@pytest.mark.parametrize("case", list(_OUT_OF_STATE))
async def test_hub_ends_the_link_of_a_caller_for(case: str, open_carrier: OpenCarrier) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", **_STREAM))
    went = await host.carrier.receive_body("open")
    await caller.send(*_OUT_OF_STATE[case])
    last = await caller.carrier.receive_last()
    assert last is not None
    assert last.close.code == _PROTOCOL_ERROR
    # Its call is cancelled at the host, whose link goes on.
    assert (await host.carrier.receive_body("cancel")).call_id == went.call_id


@pytest.mark.parametrize("case", ["cancel", "half_close", "begin twice", "begin after data"])
async def test_hub_ends_the_link_of_a_host_for(case: str, open_carrier: OpenCarrier) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", **_STREAM))
    call_id = (await host.carrier.receive_body("open")).call_id
    begin, data = frame(call_id, begin=pb.Begin()), frame(call_id, data=b"x")
    frames = {
        "cancel": [frame(call_id, cancel=pb.Cancel())],
        "half_close": [frame(call_id, half_close=True)],
        "begin twice": [begin, begin],
        "begin after data": [data, begin],
    }
    await host.send(*frames[case])
    last = await host.carrier.receive_last()
    assert last is not None
    assert last.close.code == _PROTOCOL_ERROR
    ended = (await caller.carrier.receive_body("end")).end
    assert (ended.status, ended.origin, ended.not_executed) == (14, pb.End.ORIGIN_HUB, False)


@pytest.mark.parametrize(
    ("time_left_us", "age_ms"),
    [(_UINT64_MAX, 0), (1, _UINT64_MAX), (_UINT64_MAX, _UINT64_MAX), (2**63, 0)],
)
async def test_hub_takes_deadlines_and_ages_of_any_size(
    time_left_us: int, age_ms: int, open_carrier: OpenCarrier
) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary", time_left_us=time_left_us), age_ms=age_ms)
    if age_ms:
        ended = (await caller.carrier.receive_body("end")).end
        assert ended.status == 4
    else:
        assert (await host.carrier.receive_body("open")).open.time_left_us > 2**52
    await caller.send(open_frame(3, "adversary"))
    assert (await host.carrier.receive_body("open")).open.time_left_us == 0


async def test_hub_vouches_for_callers_whatever_they_claim(open_carrier: OpenCarrier) -> None:
    host, caller = await _pair(open_carrier)
    relays_own = [pb.Metadatum(key="relay-origin", value=b"hub"), pb.Metadatum(key="k", value=b"v")]
    await caller.send(
        open_frame(
            1,
            "adversary",
            caller_identity="root",
            caller_peer="ipv4:1.2.3.4:5",
            metadata=relays_own,
        )
    )
    went = (await host.carrier.receive_body("open")).open
    assert went.caller_identity == caller.instance
    assert went.caller_peer.startswith("ipv4:127.0.0.1:")
    assert [entry.key for entry in went.metadata] == ["k"]


async def test_hub_marks_what_a_host_claims_to_be_the_hubs(open_carrier: OpenCarrier) -> None:
    host, caller = await _pair(open_carrier)
    await caller.send(open_frame(1, "adversary"))
    call_id = (await host.carrier.receive_body("open")).call_id
    trailer = pb.Metadatum(key="relay-may-have-executed", value=b"false")
    end = pb.End(
        status=2**32 - 1, origin=pb.End.ORIGIN_HUB, trailing_metadata=[trailer], details="x" * 5000
    )
    await host.send(frame(call_id, end=end))
    ended = (await caller.carrier.receive_body("end")).end
    assert ended.origin == pb.End.ORIGIN_HOST
    assert not ended.trailing_metadata


async def test_hub_ends_nothing_but_the_link_that_is_random(
    open_carrier: OpenCarrier, door: Door
) -> None:
    """Every prefix of a good batch, and the same with bytes changed: no exception, one Close."""
    chance = random.Random(f"bytes {door}")
    good = batch(open_frame(1), frame(name=pb.Name(number=1, text="a")), number=1)
    for _ in range(20):
        link = await RawLink.open(await open_carrier())
        message = bytearray(good[: chance.randrange(1, len(good))])
        for _ in range(chance.randrange(1, 6)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        # Read meanwhile: gRPC drops what was not read of a call that a write has found ended.
        receiving = asyncio.ensure_future(link.carrier.receive_last())
        await link.carrier.send(bytes(message))
        await link.carrier.send(b"\xff")
        last = await receiving
        assert last is not None
        assert last.close.code == _PROTOCOL_ERROR
