"""
Limits that are taken do work. Goal: no configuration that passes limit_problems() stops a call.

Method: any limits it finds nothing wrong with, at their edges more often than not, for a hub's core
and for the peers around it, and the largest call that goes through.
"""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from relayrpc.limits import DEFAULT_LIMITS, KIB, MIB, Limits, limit_problems
from relayrpc.link.events import CallEnded, CallOpened, DataReceived, Event
from relayrpc.link.link import LinkState
from tests.support.hub_core import CorePeer, HubCore


# Of the wire, calls, credit and acknowledgement; these come first.
NAMES = [field.name for field in fields(Limits)]
NAMES = NAMES[: NAMES.index("keepalive_interval_s")]
EDGES = (0, 1, 2, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 64 * MIB)


@st.composite
def limits_taken(draw: st.DrawFn) -> Limits:
    """Draw limits that nothing is wrong with: a few fields changed, one after the other."""
    limits = DEFAULT_LIMITS
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=4, max_size=16)):
        value: float = draw(st.sampled_from(EDGES) | st.integers(1, 2**31))
        if name.endswith("_s"):
            value = draw(st.sampled_from((0.0, 0.1, 10.0)))
        changed = replace(limits, **{name: value})
        if not limit_problems(changed):
            limits = changed
    assume(limits != DEFAULT_LIMITS)
    return limits


@settings(max_examples=150)
@given(
    limits=limits_taken(),
    peers_limits=limits_taken() | st.just(DEFAULT_LIMITS),
    size=st.integers(0, 300_000),
)
@example(
    limits=replace(DEFAULT_LIMITS, details_bytes_max=8 * KIB),
    peers_limits=replace(DEFAULT_LIMITS, batch_bytes_max=64 * KIB, details_bytes_max=8 * KIB),
    size=0,
)
@example(
    limits=replace(DEFAULT_LIMITS, calls_open_max=8192, window_bytes_max=64 * KIB),
    peers_limits=DEFAULT_LIMITS,
    size=300_000,
)
def test_largest_call_comes_to_its_end(limits: Limits, peers_limits: Limits, size: int) -> None:
    """Through a hub with some limits, between peers with others."""
    hub = HubCore(limits)
    caller = hub.peer("caller", limits=peers_limits)
    host = hub.peer("host", address="a" * limits.name_bytes_max, limits=peers_limits)
    # A list of the most bytes that all take; its name and 32 bytes count.
    metadata = [("k", bytes(limits.metadata_bytes_max - 33))]

    def serve(event: Event) -> None:
        if isinstance(event, CallOpened):
            if size:
                host.link.begin_call(event.call, metadata)
                host.link.send_data(event.call, bytes(size))
            host.link.end_call(
                event.call,
                status=3,
                details="d" * peers_limits.details_bytes_max,
                initial_metadata=[] if size else metadata,
                trailing_metadata=metadata,
            )

    def read(event: Event) -> None:
        if isinstance(event, DataReceived):
            caller.link.grant(event.call, len(event.data))

    host.on_event = serve
    caller.on_event = read
    call = hub.open(
        caller,
        "a" * limits.name_bytes_max,
        metadata=metadata,
        data=bytes(min(size, limits.initial_credit_bytes)),
        half_close=True,
    )
    settle(hub, caller)
    (end,) = caller.of(CallEnded)
    assert isinstance(end, CallEnded)
    assert (end.call, end.frame.end.status) == (call, 3)
    received = sum(len(event.data) for event in caller.of(DataReceived))  # type: ignore[attr-defined]
    assert received + len(end.frame.end.data) == size
    for link in (caller.link, host.link, caller.hub_link, host.hub_link):
        assert link.state is LinkState.OPEN
        assert not link.calls_open_count


def settle(hub: HubCore, caller: CorePeer) -> None:
    """Have everything moved; a small window waits for acks, which may be due only after a while."""
    for _ in range(2000):
        hub.settle()
        if caller.of(CallEnded):
            return
        hub.now_s += hub.limits.keepalive_interval_s
