"""
What every carrier must do, as checks that run on any of them: order, whole batches, back pressure,
and ends.

Owns: the checks. Does not own: opening carriers; whoever has one brings a function that opens a
pair. Waits for conditions and never for time, so a failure is an AssertionError or a TimeoutError
that names what did not happen.
Source: relayrpc/carrier/base.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from operator import methodcaller
from typing import Final

from relayrpc.carrier.base import Carrier
from relayrpc.errors import CarrierLostError
from relayrpc.limits import KIB, MIB, Limits


__all__ = ["CARRIER_CHECKS", "CarrierRecorder", "Check", "OpenPair", "check_carrier"]

OpenPair = Callable[[], Awaitable[tuple[Carrier, Carrier]]]
"""Opens a connection; gives both ends, not started: the dialler's and the acceptor's."""

Check = Callable[[OpenPair, Limits], Awaitable[None]]

_PATIENCE_S: Final = 10.0
# More than any kernel, proxy or library in between keeps for a reader that does not read.
_BUFFERED_BYTES_MAX: Final = 64 * MIB
_OVERSIZED_BYTES: Final = 4 * MIB + 1


async def check_carrier(open_pair: OpenPair, *, limits: Limits) -> None:
    """
    Run every check, each on a fresh pair.

    Raises:
        AssertionError: If the carrier breaks a rule of `Carrier`.
        TimeoutError: If something it owes does not come.
    """
    for check in CARRIER_CHECKS:
        await check(open_pair, limits)


class CarrierRecorder:
    """A listener that keeps what it hears, sends what it is given, and can be waited for."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.batches: list[bytes] = []
        self.ends: list[CarrierLostError | None] = []
        self.writable_count = 0
        self.sent_count = 0
        # Called with every batch, after it was kept.
        self.on_batch: Callable[[bytes], None] = lambda _batch: None
        self._unsent: list[bytes] = []
        self._changed = asyncio.Event()

    def start(self) -> None:
        self.carrier.start(self)

    def send(self, *batches: bytes) -> None:
        """Send as the carrier takes them."""
        self._unsent.extend(batches)
        self._pump()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"waited for {what}") from None

    async def until_received(self, count: int) -> None:
        await self.until(lambda: len(self.batches) >= count, f"{count} batches")

    async def until_sent(self, count: int) -> None:
        await self.until(lambda: self.sent_count >= count, f"room for {count} batches")

    async def until_ended(self) -> CarrierLostError | None:
        await self.until(lambda: bool(self.ends), "the end of the carrier")
        return self.ends[0]

    def batch_received(self, batch: bytes) -> None:
        assert not self.ends, "a batch came after the end"
        assert isinstance(batch, bytes)
        self.batches.append(batch)
        self.on_batch(batch)
        self._changed.set()

    def writable(self) -> None:
        assert self.carrier.is_writable
        self.writable_count += 1
        self._pump()
        self._changed.set()

    def carrier_ended(self, error: CarrierLostError | None) -> None:
        self.ends.append(error)
        self._changed.set()

    def _pump(self) -> None:
        while self._unsent and self.carrier.is_writable:
            self.sent_count += 1
            self.carrier.send_nowait(self._unsent.pop(0))


async def _started(open_pair: OpenPair) -> tuple[CarrierRecorder, CarrierRecorder]:
    dialler, acceptor = (CarrierRecorder(carrier) for carrier in await open_pair())
    dialler.start()
    acceptor.start()
    return dialler, acceptor


async def _end(*recorders: CarrierRecorder) -> None:
    """Close, and hold the carrier to it: one end, and no more of anything."""
    for recorder in recorders:
        recorder.carrier.close()
    for recorder in recorders:
        await recorder.until_ended()
        recorder.carrier.close()
        recorder.carrier.abort()
        recorder.carrier.send_nowait(b"after the end")
    for _ in range(10):
        await asyncio.sleep(0)
    for recorder in recorders:
        assert len(recorder.ends) == 1, f"ended {len(recorder.ends)} times"
        assert not recorder.carrier.is_writable


async def _delivers_in_order(open_pair: OpenPair, limits: Limits) -> None:
    dialler, acceptor = await _started(open_pair)
    there = [b"there %d" % index for index in range(500)]
    back = [b"back %d " % index * (index % 7 * 300 + 1) for index in range(500)]
    dialler.send(*there)
    acceptor.send(*back)
    await acceptor.until_received(len(there))
    await dialler.until_received(len(back))
    assert acceptor.batches == there
    assert dialler.batches == back
    await _end(dialler, acceptor)


async def _delivers_whole_batches(open_pair: OpenPair, limits: Limits) -> None:
    dialler, acceptor = await _started(open_pair)
    most = limits.batch_bytes_max
    sizes = [1, 125, 126, 65_535, 65_536, most - 1, most]
    batches = [bytes([index]) * size for index, size in enumerate(sizes)]
    for sender, receiver in ((dialler, acceptor), (acceptor, dialler)):
        sender.send(*batches)
        await receiver.until_received(len(sizes))
        assert [len(batch) for batch in receiver.batches] == sizes
        assert receiver.batches == batches
    await _end(dialler, acceptor)


async def _pushes_back(open_pair: OpenPair, limits: Limits) -> None:
    dialler, acceptor = (CarrierRecorder(carrier) for carrier in await open_pair())
    dialler.start()
    size_bytes = 64 * KIB
    count = _BUFFERED_BYTES_MAX // size_bytes
    batches = [bytes([index % 251]) * size_bytes for index in range(count)]
    dialler.send(*batches)
    assert not dialler.carrier.is_writable, "took everything for a reader that does not read"
    # Whatever lies in between may still take some; then nothing moves any more.
    quiet_turns, sent_count = 0, dialler.sent_count
    while quiet_turns < 200:
        await asyncio.sleep(0)
        quiet_turns = quiet_turns + 1 if dialler.sent_count == sent_count else 0
        sent_count = dialler.sent_count
    assert dialler.sent_count < len(batches)
    acceptor.start()
    await acceptor.until_received(len(batches))
    assert acceptor.batches == batches
    assert dialler.writable_count > 0
    await _end(dialler, acceptor)


async def _flushes_before_it_closes(open_pair: OpenPair, limits: Limits) -> None:
    for is_dialler in (True, False):
        pair = await _started(open_pair)
        closer, other = pair if is_dialler else reversed(pair)
        batches = [bytes([index]) * 60_000 for index in range(40)]
        closer.send(*batches)
        await closer.until_sent(len(batches))
        closer.carrier.close()
        assert not closer.carrier.is_writable
        assert await other.until_ended() is None
        assert other.batches == batches
        assert await closer.until_ended() is None
        await _end(closer, other)


async def _both_close_at_once(open_pair: OpenPair, limits: Limits) -> None:
    dialler, acceptor = await _started(open_pair)
    dialler.carrier.close()
    acceptor.carrier.close()
    assert await dialler.until_ended() is None
    assert await acceptor.until_ended() is None
    await _end(dialler, acceptor)


async def _aborts(open_pair: OpenPair, limits: Limits) -> None:
    for is_dialler in (True, False):
        pair = await _started(open_pair)
        aborter, other = pair if is_dialler else reversed(pair)
        aborter.send(b"before")
        await other.until_received(1)
        aborter.carrier.abort()
        assert not aborter.carrier.is_writable
        error = await other.until_ended()
        assert isinstance(error, CarrierLostError)
        assert not error.detail.get("size_error")
        assert isinstance(await aborter.until_ended(), CarrierLostError)
        await _end(aborter, other)


async def _peer_aborts_before_start(open_pair: OpenPair, limits: Limits) -> None:
    dialler, acceptor = (CarrierRecorder(carrier) for carrier in await open_pair())
    acceptor.carrier.abort()
    dialler.start()
    acceptor.start()
    assert isinstance(await dialler.until_ended(), CarrierLostError)
    await acceptor.until_ended()
    await _end(dialler, acceptor)


async def _delivers_nothing_after_close(open_pair: OpenPair, limits: Limits) -> None:
    for end in (methodcaller("close"), methodcaller("abort")):
        dialler, acceptor = await _started(open_pair)
        acceptor.on_batch = partial(_end_at_third, acceptor, end)
        dialler.send(*(b"%d" % index for index in range(200)))
        await acceptor.until_ended()
        await dialler.until_ended()
        assert len(acceptor.batches) == 3
        await _end(dialler, acceptor)


def _end_at_third(recorder: CarrierRecorder, end: Callable[[Carrier], None], _batch: bytes) -> None:
    if len(recorder.batches) == 3:
        end(recorder.carrier)


async def _oversized_batch_is_named(open_pair: OpenPair, limits: Limits) -> None:
    """The sender at least is told, since it is the one who would send it again."""
    for is_dialler in (True, False):
        pair = await _started(open_pair)
        sender, receiver = pair if is_dialler else reversed(pair)
        sender.send(b"x" * _OVERSIZED_BYTES)
        error = await sender.until_ended()
        assert error is not None
        assert error.detail.get("size_error") == 1
        assert await receiver.until_ended() is not None
        assert receiver.batches == []
        await _end(sender, receiver)


async def _early_batches_wait_for_start(open_pair: OpenPair, limits: Limits) -> None:
    for is_dialler in (True, False):
        pair = tuple(CarrierRecorder(carrier) for carrier in await open_pair())
        sender, receiver = pair if is_dialler else reversed(pair)
        sender.start()
        sender.send(b"one", b"two")
        await sender.until_sent(2)
        receiver.start()
        await receiver.until_received(2)
        assert receiver.batches == [b"one", b"two"]
        await _end(sender, receiver)


CARRIER_CHECKS: Final[tuple[Check, ...]] = (
    _delivers_in_order,
    _delivers_whole_batches,
    _early_batches_wait_for_start,
    _pushes_back,
    _flushes_before_it_closes,
    _both_close_at_once,
    _aborts,
    _peer_aborts_before_start,
    _delivers_nothing_after_close,
    _oversized_batch_is_named,
)
