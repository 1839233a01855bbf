"""
Goal: a link is taken up again only by who holds its id, epoch and secret, and only forwards.

Method: raw links over both doors of a real hub process; the real link of every test must live on,
which a call on it shows. LINK.md, "Resume, takeover, expiry".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from relayrpc.v1 import link_pb2 as pb
from tests.support.raw_peer import RawCarrier, RawLink, batch, frame, hello, open_frame


pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("nobody_else_notices"),
]

OpenCarrier = Callable[[], Awaitable[RawCarrier]]


async def _worked_link(open_carrier: OpenCarrier) -> RawLink:
    """A link that carried a call, so that it may park."""
    link = await RawLink.open(await open_carrier())
    await _check_lives(link, 1)
    return link


async def _check_lives(link: RawLink, call_id: int) -> None:
    await link.send(open_frame(call_id))
    assert (await link.carrier.receive_body("end")).call_id == call_id


_FORGERIES: dict[str, Callable[[RawLink], dict[str, object]]] = {
    "a guessed id": lambda link: {"link_id": bytes(16)},
    "an id one bit off": lambda link: {"link_id": _flipped(link.welcome.link_id)},
    "no id": lambda link: {"link_id": b""},
    "a guessed secret": lambda link: {"secret": bytes(32)},
    "a secret one bit off": lambda link: {"secret": _flipped(link.welcome.secret)},
    "a short secret": lambda link: {"secret": link.welcome.secret[:-1]},
    "no secret": lambda link: {"secret": b""},
    "another epoch": lambda link: {"epoch": _flipped(link.welcome.epoch)},
    "no epoch": lambda link: {"epoch": b""},
    "another instance": lambda link: {"instance": "somebody-else"},
    "no instance": lambda link: {"instance": ""},
}


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("case", list(_FORGERIES))
async def test_hub_gives_a_link_to_nobody_with(case: str, open_carrier: OpenCarrier) -> None:
    link = await _worked_link(open_carrier)
    thief = await open_carrier()
    await thief.send(link.resume(**_FORGERIES[case](link)))
    last = await thief.receive_last()
    assert last is not None
    # The same words for every reason: a guess learns nothing.
    assert last.expired.reason == "unknown link"
    await _check_lives(link, 3)


@pytest.mark.parametrize("attempt", [0, 2**63, 2**64 - 1])
async def test_hub_takes_no_attempt_out_of_range(attempt: int, open_carrier: OpenCarrier) -> None:
    link = await _worked_link(open_carrier)
    other = await open_carrier()
    await other.send(link.resume(attempt))
    last = await other.receive_last()
    assert last is not None
    assert last.close.code == pb.Close.CODE_PROTOCOL_ERROR
    await _check_lives(link, 3)


async def test_hub_takes_no_attempt_twice(open_carrier: OpenCarrier) -> None:
    link = await _worked_link(open_carrier)
    second = await open_carrier()
    await second.send(link.resume(5, received=1))
    await second.receive_body("welcome")
    for attempt in (5, 4, 1):
        replayed = await open_carrier()
        await replayed.send(link.resume(attempt))
        last = await replayed.receive_last()
        assert last is not None
        assert last.close.code == pb.Close.CODE_PROTOCOL_ERROR
    link.carrier = second
    await _check_lives(link, 3)


async def test_hub_drops_what_an_older_carrier_still_delivers(open_carrier: OpenCarrier) -> None:
    link = await _worked_link(open_carrier)
    old, new = link.carrier, await open_carrier()
    await new.send(link.resume(1, received=1))
    assert (await new.receive_body("welcome")).welcome.received == 1
    await old.send(batch(open_frame(3), number=2))
    link.carrier = new
    await _check_lives(link, 5)
    assert await _drained(old)


async def _drained(carrier: RawCarrier) -> bool:
    """Read to the end; true when no end of a call came."""
    while (received := await carrier.receive_frame()) is not None:
        if received.HasField("end"):
            return False
    return True


async def test_hub_sends_again_what_was_not_received(open_carrier: OpenCarrier) -> None:
    """The end of call 1 was in batch 1 of the hub; a dialler that says 0 gets it again."""
    link = await _worked_link(open_carrier)
    await link.carrier.aclose()
    link.carrier = await open_carrier()
    await link.carrier.send(link.resume(1, received=0))
    assert (await link.carrier.receive_body("welcome")).welcome.received == 1
    again = await link.carrier.receive_batch()
    assert again is not None
    assert (again.number, again.frames[0].call_id, again.frames[0].HasField("end")) == (1, 1, True)
    assert again.age_ms > 0
    await _check_lives(link, 3)


async def test_hub_expires_a_link_asked_for_a_batch_that_never_was(
    open_carrier: OpenCarrier,
) -> None:
    link = await _worked_link(open_carrier)
    other = await open_carrier()
    await other.send(link.resume(1, received=1000))
    assert (await other.receive_body("expired")).expired.reason
    await _check_lives(link, 3)


async def test_hub_keeps_a_link_whose_resumes_never_finish(open_carrier: OpenCarrier) -> None:
    """A hundred carriers that say Resume and go: the next attempt is as good as the first."""
    link = await _worked_link(open_carrier)
    for attempt in range(1, 101):
        carrier = await open_carrier()
        await carrier.send(link.resume(attempt, received=1))
        await carrier.aclose()
    link.carrier = await open_carrier()
    await link.carrier.send(link.resume(101, received=1))
    await link.carrier.receive_body("welcome")
    await _check_lives(link, 3)


async def test_hub_does_not_park_a_link_that_carried_nothing(open_carrier: OpenCarrier) -> None:
    link = await RawLink.open(await open_carrier())
    await link.carrier.aclose()
    while True:
        # Until the hub has noticed, a resume succeeds, and says nothing.
        carrier = await open_carrier()
        await carrier.send(link.resume(1))
        answer = await carrier.receive_frame()
        await carrier.aclose()
        assert answer is not None
        if answer.HasField("expired"):
            break
        link = await RawLink.open(await open_carrier())
        await link.carrier.aclose()


async def test_hub_lets_a_new_link_of_an_instance_replace_the_old_one(
    open_carrier: OpenCarrier,
) -> None:
    old = await _worked_link(open_carrier)
    new = await RawLink.open(await open_carrier(), instance=old.instance)
    # A Hello alone replaces nobody.
    await _check_lives(old, 3)
    await new.send(open_frame(1, "nowhere"))
    await new.carrier.receive_body("end")
    last = await old.carrier.receive_last()
    assert last is not None
    assert last.close.code == pb.Close.CODE_REPLACED
    assert new.welcome.link_id != old.welcome.link_id
    await _check_lives(new, 3)
    late = await open_carrier()
    await late.send(old.resume(1))
    assert (await late.receive_body("expired")).expired.reason


async def test_hub_makes_ids_and_secrets_that_differ(open_carrier: OpenCarrier) -> None:
    links = [await RawLink.open(await open_carrier()) for _ in range(20)]
    assert len({link.welcome.link_id for link in links}) == 20
    assert len({link.welcome.secret for link in links}) == 20
    assert {len(link.welcome.secret) for link in links} == {32}
    assert len({link.welcome.epoch for link in links}) == 1


async def test_hub_takes_no_second_handshake_after_resume(open_carrier: OpenCarrier) -> None:
    link = await _worked_link(open_carrier)
    link.carrier = await open_carrier()
    await link.carrier.send(link.resume(1))
    await link.carrier.receive_body("welcome")
    await link.carrier.send(batch(hello()))
    last = await link.carrier.receive_last()
    assert last is not None
    assert last.close.code == pb.Close.CODE_PROTOCOL_ERROR


async def test_hub_takes_no_early_data(open_carrier: OpenCarrier) -> None:
    """Resume and an Open in one batch: the batch is refused, the link is not touched."""
    link = await _worked_link(open_carrier)
    other = await open_carrier()
    resume = pb.Batch.FromString(link.resume(1)).frames[0]
    await other.send(batch(resume, frame(ping=1)))
    last = await other.receive_last()
    assert last is not None
    assert last.close.code == pb.Close.CODE_PROTOCOL_ERROR
    await _check_lives(link, 3)
