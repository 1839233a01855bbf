"""
Two ends of a link joined by hand, for tests of the core: no carrier, no clock.

`link_pair()` makes the handshake; `pump()` moves what one end has to say.
"""

from __future__ import annotations

from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link.call import Call
from relayrpc.link.events import CallOpened, Event
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


__all__ = ["link_pair", "open_call", "opened_pair", "pump", "take_batches"]


def link_pair(
    limits: Limits = DEFAULT_LIMITS,
    acceptor_limits: Limits | None = None,
    *,
    is_hub: bool = False,
    now_s: float = 0.0,
) -> tuple[Link, Link]:
    """Make a dialler and an acceptor that have had their handshake."""
    dialler = Link(is_dialler=True, limits=limits, instance="i", now_s=now_s)
    acceptor = Link(
        is_dialler=False,
        limits=acceptor_limits or limits,
        instance="i",
        is_hub=is_hub,
        now_s=now_s,
    )
    dialler.carrier_opened(now_s=now_s)
    hello = dialler.batch_to_send(attempt=0, now_s=now_s)
    assert hello is not None
    acceptor.accept(
        pb.Batch.FromString(hello).frames[0].hello,
        link_id=bytes(16),
        secret=bytes(32),
        epoch=bytes(16),
    )
    for batch in take_batches(acceptor, now_s=now_s):
        dialler.receive_batch(batch, attempt=0, now_s=now_s)
    dialler.events_received()
    return dialler, acceptor


def take_batches(sender: Link, *, now_s: float = 0.0) -> list[bytes]:
    """Take every batch that an end has now."""
    batches = []
    while (batch := sender.batch_to_send(attempt=sender.attempt, now_s=now_s)) is not None:
        batches.append(batch)
    return batches


def pump(sender: Link, receiver: Link, *, now_s: float = 0.0) -> list[Event]:
    """Move everything that is to be sent; returns what the receiver makes of it."""
    for batch in take_batches(sender, now_s=now_s):
        receiver.receive_batch(batch, attempt=receiver.attempt, now_s=now_s)
    return receiver.events_received()


def open_call(link: Link, **options: object) -> Call:
    """Open a call to "s/m" at "a"."""
    parts: dict[str, object] = {"shape": pb.SHAPE_STREAM_STREAM, "app": None, "now_s": 0.0}
    return link.open_call("s/m", "a", **{**parts, **options})  # type: ignore[arg-type]


def opened_pair(dialler: Link, acceptor: Link, **options: object) -> tuple[Call, Call]:
    """Open a call from the dialler; returns it as seen from both ends."""
    call = open_call(dialler, **options)
    events = pump(dialler, acceptor)
    (opened,) = [event for event in events if isinstance(event, CallOpened)]
    return call, opened.call
