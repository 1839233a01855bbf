"""
What goes into batches. Goal: order within a call, small before bulk, bulk never starved, no batch
over the agreed size. Method: a link's batches, decoded.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayrpc.limits import DEFAULT_LIMITS, KIB, Limits
from relayrpc.link.call import Call
from relayrpc.link.events import CallEnded, CallOpened, DataReceived, HalfCloseReceived
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb
from tests.support.link_pair import link_pair, open_call, opened_pair, pump, take_batches


BATCH_BYTES_MIN = 64 * KIB
CREDIT = 2**30


def _next_frames(link: Link) -> list[pb.Frame]:
    batch = link.batch_to_send(attempt=link.attempt, now_s=0.0)
    return [] if batch is None else list(pb.Batch.FromString(batch).frames)


def _bodies(frames: list[pb.Frame]) -> list[tuple[int, str]]:
    return [(frame.call_id, str(frame.WhichOneof("body"))) for frame in frames]


def _two_streams(limits: Limits = DEFAULT_LIMITS) -> tuple[Link, Call, Call]:
    """Two calls of a dialler that have all the credit they want."""
    dialler, acceptor = link_pair(limits)
    calls = []
    for _ in range(2):
        call, served = opened_pair(dialler, acceptor)
        acceptor.grant(served, CREDIT)
        calls.append(call)
    pump(acceptor, dialler)
    return dialler, calls[0], calls[1]


def test_small_goes_before_bulk_that_came_earlier() -> None:
    dialler, bulk, small = _two_streams()
    dialler.send_data(bulk, b"x" * 500_000)
    _next_frames(dialler)
    dialler.send_data(small, b"y")
    dialler.half_close(small)
    frames = _next_frames(dialler)
    assert _bodies(frames)[:3] == [(small.id, "data"), (small.id, "half_close"), (bulk.id, "data")]


def test_bulk_streams_take_turns() -> None:
    dialler, left, right = _two_streams()
    for call in (left, right):
        dialler.send_data(call, b"x" * 300_000)
    sent = {left.id: 0, right.id: 0}
    while frames := _next_frames(dialler):
        for frame in frames:
            sent[frame.call_id] += len(frame.data)
        ahead = abs(sent[left.id] - sent[right.id])
        assert ahead <= DEFAULT_LIMITS.fragment_bytes_max
        if sent[left.id] == sent[right.id] == 300_000:
            return
        if dialler.log.is_full():
            dialler.log.acknowledge(dialler.log.sent_number, now_s=0.0)


def test_flood_of_small_frames_does_not_starve_bulk() -> None:
    dialler, bulk, _ = _two_streams()
    dialler.send_data(bulk, b"x" * 1_000_000)
    for _ in range(1000):
        open_call(dialler, data=b"y" * 4000, half_close=True)
    for _ in range(4):
        bulk_bytes = sum(len(frame.data) for frame in _next_frames(dialler))
        assert bulk_bytes >= DEFAULT_LIMITS.fragment_bytes_max // 2
        dialler.log.acknowledge(dialler.log.sent_number, now_s=0.0)


def test_grants_of_one_call_leave_as_one_frame() -> None:
    dialler, call, _ = _two_streams()
    dialler.grant(call, 5)
    dialler.grant(call, 7)
    (frame,) = _next_frames(dialler)
    assert (frame.call_id, frame.grant) == (call.id, 12)


def test_only_control_leaves_while_the_window_is_full() -> None:
    limits = dataclasses.replace(
        DEFAULT_LIMITS, unacknowledged_bytes_min=1000, control_reserve_bytes=3000
    )
    dialler, stream, other = _two_streams(limits)
    dialler.send_data(stream, b"x" * 3000)
    take_batches(dialler)
    assert dialler.log.is_full()
    dialler.send_data(stream, b"x")
    open_call(dialler)
    dialler.grant(stream, 9)
    dialler.cancel_call(other)
    assert _bodies(_next_frames(dialler)) == [(stream.id, "grant"), (other.id, "cancel")]
    assert not _next_frames(dialler)
    dialler.log.acknowledge(dialler.log.sent_number, now_s=0.0)
    assert [body for _, body in _bodies(_next_frames(dialler))] == ["open", "data"]


def test_control_reserve_has_an_end() -> None:
    limits = dataclasses.replace(
        DEFAULT_LIMITS, unacknowledged_bytes_min=1000, control_reserve_bytes=100
    )
    dialler, stream, _ = _two_streams(limits)
    dialler.send_data(stream, b"x" * 3000)
    take_batches(dialler)
    dialler.grant(stream, 9)
    assert not _next_frames(dialler)


def test_open_of_a_cancelled_call_never_leaves() -> None:
    dialler, _ = link_pair()
    kept, cancelled = open_call(dialler), open_call(dialler, data=b"x" * 10_000)
    dialler.cancel_call(cancelled)
    frames = _next_frames(dialler)
    assert [body for _, body in _bodies(frames)].count("open") == 1
    assert (kept.id, cancelled.id) == (1, 0)


@pytest.mark.parametrize("deadline_s", [2**64 / 1e6, 2e13, float("inf")])
def test_deadline_beyond_what_its_field_holds_is_sent_as_a_distant_one(deadline_s: float) -> None:
    dialler, _ = link_pair()
    open_call(dialler).deadline_s = deadline_s
    (opening,) = [frame.open for frame in _next_frames(dialler) if frame.HasField("open")]
    assert opening.time_left_us == 2**53


def test_calls_cancelled_while_nothing_can_be_sent_leave_nothing_behind() -> None:
    link = Link(is_dialler=True, limits=DEFAULT_LIMITS, instance="i", now_s=0.0)
    for _ in range(5000):
        link.cancel_call(open_call(link))
    assert len(link._outbox._control) <= 1100


def test_calls_with_an_order_key_leave_in_the_order_of_their_opening() -> None:
    dialler, acceptor = link_pair()
    sizes = [10, 50_000, 20, 5_000, 0]
    calls = [open_call(dialler, data=b"x" * size, order_key="k") for size in sizes]
    opened = [event for event in pump(dialler, acceptor) if isinstance(event, CallOpened)]
    assert [event.call.id for event in opened] == [call.id for call in calls]
    assert [call.id for call in calls] == sorted(call.id for call in calls)


@given(
    sizes=st.lists(st.integers(1, 20_000), max_size=12),
    grants=st.lists(st.integers(1, 9000), max_size=30),
    ends_early=st.booleans(),
)
@settings(max_examples=50)
def test_stream_arrives_in_order_however_it_is_granted(
    sizes: list[int], grants: list[int], ends_early: bool
) -> None:
    dialler, acceptor = link_pair()
    call, served = opened_pair(dialler, acceptor)
    sent = b""
    for index, size in enumerate(sizes):
        piece = bytes([index]) * size
        sent += piece
        dialler.send_data(call, piece)
    if ends_early:
        dialler.half_close(call)
    received, events = b"", []
    for grant in [*grants, len(sent) + 1]:
        acceptor.grant(served, grant)
        pump(acceptor, dialler)
        events = pump(dialler, acceptor)
        received += b"".join(event.data for event in events if isinstance(event, DataReceived))
        assert sent.startswith(received)
        if HalfCloseReceived in map(type, events):
            assert received == sent
            break
    else:
        assert not ends_early
        dialler.half_close(call)
        events = pump(dialler, acceptor)
        assert HalfCloseReceived in map(type, events)
    assert received == sent


METADATA = st.lists(st.integers(0, 7000), max_size=2)


@given(
    opens=st.lists(
        st.tuples(
            st.integers(0, 120_000),
            METADATA,
            st.integers(0, 512),
            st.sampled_from(["", "ordered", "one-way"]),
        ),
        max_size=12,
    ),
    ends=st.lists(
        st.tuples(st.integers(0, 120_000), METADATA, METADATA, st.integers(0, 5000)), max_size=8
    ),
    small=st.integers(0, 40),
)
@settings(max_examples=30)
def test_no_batch_is_over_the_smallest_agreed_size(
    opens: list[tuple[int, list[int], int, str]],
    ends: list[tuple[int, list[int], list[int], int]],
    small: int,
) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, batch_bytes_max=BATCH_BYTES_MIN)
    dialler, acceptor = link_pair(limits, DEFAULT_LIMITS)
    for _ in ends:
        call = acceptor.open_call("s/m", "a", shape=pb.SHAPE_UNKNOWN, app=None, now_s=0.0)
        acceptor.grant(call, CREDIT)
    served = [e.call for e in pump(acceptor, dialler) if isinstance(e, CallOpened)]
    # Now the dialler's and the acceptor's ends are full of what each may say.
    for size, metadata, name, kind in opens:
        acceptor.open_call(
            f"s/{'m' * name}"[:512],
            "a",
            shape=pb.SHAPE_UNKNOWN,
            app=None,
            data=b"x" * size,
            metadata=[("k", b"v" * value) for value in metadata],
            half_close=size % 2 == 0,
            order_key="k" if kind == "ordered" else "",
            one_way=kind == "one-way",
            now_s=0.0,
        )
    for call, (size, initial, trailing, details) in zip(served, ends, strict=True):
        dialler.end_call(
            call,
            status=5,
            details="d" * details,
            data=b"x" * size,
            initial_metadata=[("k", b"v" * value) for value in initial],
            trailing_metadata=[("k", b"v" * value) for value in trailing],
        )
    for _ in range(small):
        open_call(acceptor, data=b"s" * 4000)
        open_call(dialler, data=b"s" * 4000)
    opened, ended = [], []
    for _ in range(100):
        batches = take_batches(acceptor)
        assert all(len(batch) <= BATCH_BYTES_MIN for batch in batches)
        for batch in batches:
            dialler.receive_batch(batch, attempt=0, now_s=0.0)
        opened += [e for e in dialler.events_received() if isinstance(e, CallOpened)]
        back = take_batches(dialler)
        for batch in back:
            acceptor.receive_batch(batch, attempt=0, now_s=0.0)
        ended += [e for e in acceptor.events_received() if isinstance(e, CallEnded)]
        if not batches and not back:
            break
    assert len(opened) == len(opens) + small
    assert len(ended) == len(ends)


@given(
    sizes=st.lists(st.integers(1, 64 * KIB), min_size=1, max_size=8),
    metadata_bytes=st.integers(0, 16_000),
    small=st.integers(0, 40),
    has_bulk=st.booleans(),
)
@settings(max_examples=30)
def test_one_way_call_leaves_in_one_piece(
    sizes: list[int], metadata_bytes: int, small: int, has_bulk: bool
) -> None:
    """Up to the first credit; the hub cannot hold one of which it has a part."""
    dialler, bulk, _ = _two_streams()
    if has_bulk:
        dialler.send_data(bulk, b"x" * 1_000_000)
    for size in sizes:
        for _ in range(small):
            open_call(dialler, data=b"s" * 1000)
        open_call(
            dialler,
            data=b"o" * size,
            metadata=[("k", b"v" * metadata_bytes)],
            half_close=True,
            one_way=True,
        )
    openings = []
    while frames := _next_frames(dialler):
        openings += [each.open for each in frames if each.HasField("open") and each.open.one_way]
        dialler.log.acknowledge(dialler.log.sent_number, now_s=0.0)
    assert [len(opening.data) for opening in openings] == sizes
    assert all(opening.half_close for opening in openings)


@pytest.mark.parametrize("size", [1, 5000, 500_000])
def test_writer_is_told_once_that_it_may_go_on(size: int) -> None:
    limits = dataclasses.replace(DEFAULT_LIMITS, send_queue_bytes_high=4000)
    dialler, stream, _ = _two_streams(limits)
    dialler.send_data(stream, b"x" * size)
    take_batches(dialler)
    kinds = [type(event).__name__ for event in dialler.events_received()]
    assert kinds == (["SendReady"] if size > 4000 else [])


# --- more than one batch of each kind ---


def test_names_that_do_not_fit_go_before_what_refers_to_them() -> None:
    dialler, acceptor = link_pair(acceptor_limits=_small_batches())
    for number in range(300):
        dialler.open_call(
            f"s/{number:0500}", "a", shape=pb.SHAPE_UNARY_UNARY, app=None, data=b"x", now_s=0.0
        )
    batches = take_batches(dialler)
    assert len(batches) > 2
    assert max(map(len, batches)) <= BATCH_BYTES_MIN
    for batch in batches:
        acceptor.receive_batch(batch, attempt=0, now_s=0.0)
    opened = [e for e in acceptor.events_received() if isinstance(e, CallOpened)]
    assert [event.call.method for event in opened] == [f"s/{n:0500}" for n in range(300)]


def test_grants_that_do_not_fit_wait_for_the_next_batch() -> None:
    limits = dataclasses.replace(_small_batches(), calls_open_max=10_000)
    dialler, acceptor = link_pair(limits)
    for _ in range(8000):
        open_call(dialler)
    events = pump(dialler, acceptor)
    calls = [event.call for event in events if isinstance(event, CallOpened)]
    assert len(calls) == 8000
    for call in calls:
        acceptor.grant(call, CREDIT)
    batches = take_batches(acceptor)
    assert len(batches) > 1
    assert max(map(len, batches)) <= BATCH_BYTES_MIN
    for batch in batches:
        dialler.receive_batch(batch, attempt=0, now_s=0.0)
    assert {call.send_credit_bytes for call in dialler._calls.values()} == {CREDIT}


def test_data_written_before_the_open_left_goes_behind_what_the_open_holds() -> None:
    dialler, acceptor = link_pair()
    call = open_call(dialler, data=b"a")
    dialler.send_data(call, b"b")
    opened = pump(dialler, acceptor)[0]
    assert isinstance(opened, CallOpened)
    assert opened.data == b"a"
    acceptor.grant(opened.call, CREDIT)
    pump(acceptor, dialler)
    (data,) = pump(dialler, acceptor)
    assert isinstance(data, DataReceived)
    assert data.data == b"b"


def test_small_call_that_grew_takes_its_turn_with_bulk() -> None:
    dialler, grown, small = _two_streams()
    dialler.send_data(grown, b"x")
    dialler.send_data(grown, b"x" * 200_000)
    dialler.send_data(small, b"y")
    frames = _next_frames(dialler)
    assert _bodies(frames)[:2] == [(small.id, "data"), (grown.id, "data")]


def test_small_and_large_ends_share_batches_they_fit_in() -> None:
    """Ends with much metadata cannot be cut: they wait for a batch with room."""
    dialler, acceptor = link_pair(_small_batches())
    pairs_of_legs = [opened_pair(dialler, acceptor) for _ in range(13)]
    for call, _ in pairs_of_legs:
        dialler.grant(call, CREDIT)
    pump(dialler, acceptor)
    bulk, *served = [leg for _, leg in pairs_of_legs]
    acceptor.send_data(bulk, b"x" * 300_000)
    pairs = [("k", b"v" * 15_000)]
    for call in served[:6]:
        acceptor.send_data(call, b"small")
        acceptor.end_call(call, initial_metadata=pairs, trailing_metadata=pairs)
    for call in served[6:]:
        acceptor.send_data(call, b"x" * 20_000)
        acceptor.end_call(call, initial_metadata=pairs, trailing_metadata=pairs)
    batches = take_batches(acceptor)
    assert max(map(len, batches)) <= BATCH_BYTES_MIN
    for batch in batches:
        dialler.receive_batch(batch, attempt=0, now_s=0.0)
    ends = [event for event in dialler.events_received() if isinstance(event, CallEnded)]
    assert len(ends) == 12


def _small_batches() -> Limits:
    return dataclasses.replace(
        DEFAULT_LIMITS,
        batch_bytes_max=BATCH_BYTES_MIN,
        unacknowledged_bytes_min=16 * 1024 * KIB,
    )
