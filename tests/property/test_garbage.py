"""
Batches that no honest peer sends. Goal: the worst they do is to close the link they came on; no
exception leaves the core. Method: what a link and a hub really take, changed at random.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.errors import ProtocolError, RelayError
from relayrpc.hub.links import Accepted, Refused
from relayrpc.link.events import CallEnded, LinkEnded
from relayrpc.link.frames import encode_unnumbered
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb
from tests.support.hub_core import SERVICE, HubCore
from tests.support.link_pair import link_pair, open_call


NUMBERS = st.one_of(
    st.integers(0, 9), st.sampled_from((2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
)
SMALL_NUMBERS = NUMBERS.map(lambda number: min(number, 2**32 - 1))
TEXTS = st.one_of(st.sampled_from(("", "a", f"{SERVICE}/Call", "relay-x")), st.text(max_size=20))
DATA = st.one_of(st.binary(max_size=20), st.sampled_from((b"x" * 5000, b"x" * 70_000)))
METADATA = st.lists(
    st.builds(lambda key, value: pb.Metadatum(key=key, value=value), TEXTS, DATA), max_size=2
)


def _message(kind: type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


ENUMS = st.integers(0, 9)
BODIES = {
    "open": _message(
        pb.Open,
        method=SMALL_NUMBERS,
        method_text=TEXTS,
        address=SMALL_NUMBERS,
        address_text=TEXTS,
        shape=ENUMS,
        time_left_us=NUMBERS,
        data=DATA,
        half_close=st.booleans(),
        credit_bytes=SMALL_NUMBERS,
        metadata=METADATA,
        order_key=st.one_of(TEXTS, st.just("k" * 200)),
    ),
    "begin": _message(pb.Begin, metadata=METADATA, instance=TEXTS),
    "data": DATA,
    "grant": NUMBERS,
    "half_close": st.booleans(),
    "cancel": _message(pb.Cancel, reason=ENUMS),
    "end": _message(
        pb.End,
        status=SMALL_NUMBERS,
        details=TEXTS,
        data=DATA,
        initial_metadata=METADATA,
        trailing_metadata=METADATA,
        origin=ENUMS,
        not_executed=st.booleans(),
    ),
    "name": _message(pb.Name, number=SMALL_NUMBERS, text=TEXTS),
    "announce": _message(
        pb.Announce,
        id=SMALL_NUMBERS,
        address=TEXTS,
        services=st.lists(st.builds(lambda name: pb.ServiceDescription(name=name), TEXTS)),
    ),
    "announced": _message(pb.Announced, id=SMALL_NUMBERS, status=SMALL_NUMBERS, details=TEXTS),
    "withdraw": _message(pb.Withdraw, id=SMALL_NUMBERS),
    "going_away": _message(pb.GoingAway, time_left_ms=NUMBERS, reason=TEXTS),
    "hello": st.just(pb.Hello(versions=[1], instance="i")),
    "welcome": st.just(pb.Welcome(version=1, link_id=bytes(16), secret=bytes(32))),
    "resume": _message(pb.Resume, attempt=NUMBERS, received=NUMBERS),
    "expired": st.just(pb.Expired(reason="r")),
    "ping": NUMBERS,
    "pong": NUMBERS,
    "close": _message(pb.Close, code=ENUMS, reason=TEXTS),
}
FRAMES = st.one_of(
    *(
        st.builds(
            lambda call_id, body, name=name: pb.Frame(call_id=call_id, **{name: body}),
            NUMBERS,
            bodies,
        )
        for name, bodies in BODIES.items()
    ),
    st.builds(lambda call_id: pb.Frame(call_id=call_id), NUMBERS),
)
# Mostly in sequence, so that something of it is read.
BATCHES = st.lists(
    st.tuples(
        st.one_of(st.just(None), st.just(None), st.just(None), NUMBERS),
        st.one_of(st.just(0), st.integers(0, 3), NUMBERS),
        st.one_of(st.just(0), NUMBERS),
        st.lists(FRAMES, max_size=4),
    ),
    max_size=6,
)
DAMAGE = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3)


def _deliver(link: Link, data: bytes) -> None:
    link.receive_batch(data, attempt=link.attempt, now_s=1.0)


def _encoded(link: Link, batch: tuple[int | None, int, int, list[pb.Frame]]) -> bytes:
    number, ack, age_ms, frames = batch
    if number is None:
        number = link.log.received_number + 1
    return pb.Batch(number=number, ack=ack, age_ms=age_ms, frames=frames).SerializeToString()


def _check(link: Link) -> None:
    """Everything the driver would do next goes well, and an end is an end."""
    while link.batch_to_send(attempt=link.attempt, now_s=1.0) is not None:
        pass
    link.next_deadline_s()
    ends = [event for event in link.events_received() if isinstance(event, LinkEnded)]
    assert len(ends) == (link.state is LinkState.CLOSED)
    if ends:
        assert ends[0].error is None or isinstance(ends[0].error, RelayError)
        assert not link.calls_open_count


@given(batches=BATCHES)
@settings(max_examples=80)
def test_endpoint_survives_frames_that_make_no_sense(
    batches: list[tuple[int | None, int, int, list[pb.Frame]]],
) -> None:
    dialler, _ = link_pair()
    for size in (0, 10, 10_000):
        call = open_call(dialler, data=b"x" * size)
    dialler.batch_to_send(attempt=0, now_s=0.0)
    dialler.half_close(call)
    for batch in batches:
        _deliver(dialler, _encoded(dialler, batch))
    dialler.handle_timeout(now_s=2.0)
    _check(dialler)


@given(batches=BATCHES)
@settings(max_examples=80)
def test_hub_survives_frames_that_make_no_sense(
    batches: list[tuple[int | None, int, int, list[pb.Frame]]],
) -> None:
    hub = HubCore()
    host, caller = hub.peer("host", address="a"), hub.peer("caller")
    bad, good = hub.peer("bad", address="b"), hub.open(caller, "a", data=b"hello")
    hub.open(caller, "b")
    hub.settle()
    link = bad.hub_link
    for batch in batches:
        _deliver(link, _encoded(link, batch))
        hub.forwarder.handle(link, link.events_received(), now_s=hub.now_s)
    while link.batch_to_send(attempt=link.attempt, now_s=hub.now_s) is not None:
        pass
    hub.peers.remove(bad)
    hub.settle()
    # The others do not notice.
    assert host.link.state is host.hub_link.state is LinkState.OPEN
    assert caller.link.state is caller.hub_link.state is LinkState.OPEN
    assert not good.is_ended  # type: ignore[attr-defined]
    link.close()
    hub.forwarder.handle(link, link.events_received(), now_s=hub.now_s)
    hub.settle()
    budgets = [peer.hub_link.budget for peer in (host, caller, bad)]
    assert budgets[2] is not None
    assert not budgets[2].used_bytes
    ended = [event.call for event in caller.events if isinstance(event, CallEnded)]
    assert len(set(ended)) == len(ended) == 1


@given(frames=st.lists(FRAMES, max_size=4), damage=DAMAGE, cut=st.integers(0, 2**16))
@settings(max_examples=80)
def test_link_survives_bytes_changed_on_the_way(
    frames: list[pb.Frame], damage: list[tuple[int, int]], cut: int
) -> None:
    dialler, acceptor = link_pair()
    open_call(dialler, data=b"x" * 100)
    dialler.grant(open_call(dialler), 5)
    first = dialler.batch_to_send(attempt=0, now_s=0.0)
    assert first is not None
    for data in (first, _encoded(acceptor, (2, 0, 0, frames))):
        damaged = bytearray(data)
        for place, value in damage:
            damaged[place % len(damaged)] = value
        _deliver(acceptor, bytes(damaged[: 1 + cut % len(damaged)]))
    _check(acceptor)


@given(frames=st.lists(FRAMES, max_size=2), damage=DAMAGE, is_resume=st.booleans())
@settings(max_examples=60)
def test_hub_survives_any_first_batch(
    frames: list[pb.Frame], damage: list[tuple[int, int]], is_resume: bool
) -> None:
    hub = HubCore()
    link = hub.peer("a").hub_link
    resume = pb.Resume(
        link_id=link.link_id, secret=link.secret, epoch=link.epoch, attempt=1, instance="a"
    )
    hello = pb.Hello(versions=[1], instance="b")
    honest = pb.Frame(resume=resume) if is_resume else pb.Frame(hello=hello)
    data = bytearray(encode_unnumbered(*(frames or [honest])))
    for place, value in damage:
        data[place % len(data)] = value
    decision = hub.table.first_batch(bytes(data), peer="p", websocket_url="", now_s=1.0)
    assert isinstance(decision, Accepted | Refused)
    if isinstance(decision, Refused):
        assert isinstance(decision.error, ProtocolError)
        assert link.state is LinkState.OPEN


@given(frames=st.lists(FRAMES, max_size=3), number=NUMBERS, ack=NUMBERS)
@settings(max_examples=60)
def test_dialler_survives_any_answer_to_its_handshake(
    frames: list[pb.Frame], number: int, ack: int
) -> None:
    dialler = Link(is_dialler=True, limits=link_pair()[0].limits, instance="i", now_s=0.0)
    open_call(dialler)
    attempt = dialler.carrier_opened(now_s=0.0)
    dialler.batch_to_send(attempt=attempt, now_s=0.0)
    batch = pb.Batch(number=number, ack=ack, frames=frames)
    dialler.receive_batch(batch.SerializeToString(), attempt=attempt, now_s=1.0)
    _check(dialler)
