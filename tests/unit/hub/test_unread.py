"""
Peers that send and never read. Goal: a hub holds a bounded size of answers for them, and goes on
with those that read late. Method: a hub's core, and hand-written calls from a peer that takes
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import count

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB
from relayrpc.link.events import CallEnded
from relayrpc.link.link import LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, CorePeer, HubCore


LIMITS = dataclasses.replace(DEFAULT_LIMITS, calls_open_max=100, unread_bytes_max=64 * KIB)


def send(hub: HubCore, peer: CorePeer, number: int, frames: list[pb.Frame]) -> None:
    """Have the hub receive a batch that no well-behaved link would send."""
    link = peer.hub_link
    batch = pb.Batch(number=number, frames=frames).SerializeToString()
    link.receive_batch(batch, attempt=link.attempt, now_s=hub.now_s)
    hub.forwarder.handle(link, link.events_received(), now_s=hub.now_s)


def calls(first_id: int) -> list[pb.Frame]:
    """50 calls that nobody serves."""
    opening = pb.Open(method_text=f"{SERVICE}/Call", address_text="nobody", half_close=True)
    return [pb.Frame(call_id=first_id + 2 * number, open=opening) for number in range(50)]


def announcements(first_id: int) -> list[pb.Frame]:
    """50 announcements, none of which may be made: a segment is wrong."""
    return [
        pb.Frame(announce=pb.Announce(id=first_id + number, address="?")) for number in range(50)
    ]


@pytest.mark.parametrize(("make", "ids"), [(calls, 100), (announcements, 50)])
def test_peer_that_never_reads_what_it_asked_for_loses_its_link(
    make: Callable[[int], list[pb.Frame]], ids: int
) -> None:
    hub = HubCore(LIMITS)
    peer = hub.peer("flood")
    peer.takes = False
    link = peer.hub_link
    for turn in count():
        send(hub, peer, turn + 1, make(1 + turn * ids))
        if link.state is LinkState.CLOSED:
            break
        # Each answer has more than 20 bytes.
        assert turn * 50 * 20 <= LIMITS.unread_bytes_max
    data = link.batch_to_send(attempt=link.attempt, now_s=hub.now_s)
    assert data is not None
    (said,) = pb.Batch.FromString(data).frames
    assert said.close.code == pb.Close.CODE_LIMIT
    assert said.close.reason.endswith(" bytes of answers wait for a peer that reads none")
    assert not link.calls_open_count


def test_peer_that_reads_late_gets_every_answer() -> None:
    """All that it may have open is answered while it takes nothing."""
    hub = HubCore(LIMITS)
    host = hub.peer("host", address="a")
    caller = hub.peer("caller")
    caller.takes = False
    ended = []
    for _ in range(LIMITS.calls_open_max):
        hub.open(caller, "a", half_close=True)
    hub.settle()
    for event in list(host.events):
        call = getattr(event, "call", None)
        if call is not None and not call.is_ended:
            host.link.begin_call(call, [("k", b"v")])
            host.link.end_call(call)
            ended.append(call)
    hub.settle()
    assert len(ended) == LIMITS.calls_open_max
    assert caller.hub_link.state is LinkState.OPEN
    caller.takes = True
    hub.settle()
    assert len(caller.of(CallEnded)) == LIMITS.calls_open_max
    assert caller.hub_link._outbox.control_bytes == 0
