"""
What the local program does with the calls of one link: opening them, sending on them. Pure: time is
an argument.

Owns: OPENs as they are made, what of a message goes behind them. Does not own: which calls there
are, and their ends (call_table.py), what the peer sends (call_receiver.py), the order in which
frames leave (outbox.py).
Source: protos/relayrpc/v1/link.proto, "Sequence of one call".
"""

from __future__ import annotations

from collections import deque
from typing import Final

from relayrpc.errors import UsageError
from relayrpc.link.call import NEXT_STATE, NO_STATE, Call, CallInput, CallState
from relayrpc.link.call_table import CallTable
from relayrpc.link.events import CallEnded
from relayrpc.link.frames import MetadataPairs, add_metadata, encode_frame
from relayrpc.v1 import link_pb2 as pb


__all__ = ["LinkCalls"]

# Plain ints: enum members are slower to compare and to index with.
_ENDED: Final = int(CallState.ENDED)
_CALLING: Final = int(CallState.CALLING)
_AWAITING: Final = int(CallState.AWAITING)
_SEND_DATA: Final = int(CallInput.SEND_DATA)


class LinkCalls(CallTable):
    """The calls of a link, for whoever opens them and sends on them. Its state is CallTable's."""

    # --- opening ---

    def open_call(
        self,
        method: str,
        address: str,
        *,
        shape: pb.Shape,
        app: object,
        metadata: MetadataPairs = (),
        deadline_s: float | None = None,
        data: bytes = b"",
        half_close: bool = False,
        order_key: str = "",
        sticky_key: str = "",
        instance: str = "",
        dedupe_key: str = "",
        wait_for_ready: bool = False,
        anchor: Call | None = None,
        one_way: bool = False,
        credit_bytes: int | None = None,
        now_s: float,
    ) -> Call:
        """
        Open a call; it is queued until a carrier takes it. After calling this, send.

        Args:
            method: "pkg.Service/Method".
            address: Path of the address; empty: the service's name.
            shape: As the stub has it.
            app: Kept in Call.app.
            metadata: (key, value bytes) pairs in order.
            deadline_s: Monotonic seconds, or None.
            data: First bytes of the request stream.
            half_close: No more requests follow.
            order_key: Calls of one key are started in the order of their opening.
            sticky_key: Calls of one key go to the same host.
            instance: The only host instance that will do; empty: any.
            dedupe_key: The host runs calls of one key once; empty: each.
            wait_for_ready: Wait for a host.
            anchor: The call on this link that this one belongs to; None: none.
            one_way: It is over once the hub holds it.
            credit_bytes: First credit for the responses; None: the default.
            now_s: Monotonic seconds.

        Returns:
            The call; one more than the peer takes ends at once, by event, with RESOURCE_EXHAUSTED.

        Raises:
            UsageError: The link is closed or draining.
        """
        frame = pb.Frame()
        opening = frame.open
        opening.shape = shape
        if metadata:
            add_metadata(opening.metadata, metadata)
        if order_key:
            opening.order_key = order_key
        if sticky_key:
            opening.sticky_key = sticky_key
        if instance:
            opening.instance = instance
        if dedupe_key:
            opening.dedupe_key = dedupe_key
        if wait_for_ready:
            opening.wait_for_ready = True
        if one_way:
            opening.one_way = True
        if credit_bytes is None:
            credit_bytes = self.limits.initial_credit_bytes
        opening.credit_bytes = credit_bytes
        if half_close:
            opening.half_close = True
        if data and len(data) <= self.limits.small_bytes_max:
            opening.data = data
        call = self._open(frame, opening, method, address, app, data, credit_bytes, anchor)
        if deadline_s is not None:
            call.deadline_s = deadline_s
            self._deadlines.add(call, now_s=now_s)
        if self._own_calls_count > self._own_calls_max:
            self._refuse_own(call)
        return call

    def open_again(
        self,
        ended: Call,
        frame: pb.Frame,
        *,
        app: object,
        data: bytes,
        half_close: bool,
        now_s: float,
    ) -> Call:
        """
        Open a call once more that `open_call` opened, here or on another link, and that has ended.

        Args:
            ended: The call as it was.
            frame: Its OPEN; taken over.
            app: Kept in Call.app.
            data: The whole request stream so far.
            half_close: No more requests follow.
            now_s: Monotonic seconds.

        Returns:
            As `open_call`.

        Raises:
            UsageError: The link is closed or draining.
        """
        opening = frame.open
        opening.method_text = opening.address_text = ""
        opening.data = data if len(data) <= self.limits.small_bytes_max else b""
        opening.half_close = half_close
        call = self._open(
            frame, opening, ended.method, ended.address, app, data, opening.credit_bytes, None
        )
        if ended.deadline_s is not None:
            call.deadline_s = ended.deadline_s
            self._deadlines.add(call, now_s=now_s)
        if self._own_calls_count > self._own_calls_max:
            self._refuse_own(call)
        return call

    def forward_open(
        self,
        frame: pb.Frame,
        came: Call,
        *,
        data: bytes,
        credit_bytes: int,
        anchor: Call | None = None,
    ) -> Call:
        """
        Open a call with the OPEN that arrived as `came` on another link (hub only); the frame is
        taken over.

        The deadline is watched on the leg it came on; here only the time spent in the queue is
        taken off.

        Args:
            frame: The OPEN.
            came: Its call; becomes the `app` of the new one.
            data: What the OPEN holds.
            credit_bytes: What of the opener's first credit is passed on now.
            anchor: The call on this link that it belongs to; None: none.

        Raises:
            UsageError: The link is closed or draining.
        """
        opening = frame.open
        opening.credit_bytes = credit_bytes
        if len(data) > self.limits.small_bytes_max:
            opening.data = b""
        call = self._open(
            frame, opening, came.method, came.address, came, data, credit_bytes, anchor
        )
        call.deadline_s = came.deadline_s
        return call

    def _open(
        self,
        frame: pb.Frame,
        opening: pb.Open,
        method: str,
        address: str,
        app: object,
        data: bytes,
        credit_bytes: int,
        anchor: Call | None,
    ) -> Call:
        """Make the call of an OPEN; small data is in the frame already, other goes by the queue."""
        if self.is_closed or self.is_draining:
            raise UsageError("the link takes no new calls")
        names = self._names_out
        numbers = names.numbers
        opening.method = number = numbers.get(method) or names.define(method)
        if not number:
            opening.method_text = method
        if address:
            opening.address = number = numbers.get(address) or names.define(address)
            if not number:
                opening.address_text = address
        half_close = opening.half_close
        call = Call(self, is_opener=True, state=_AWAITING if half_close else _CALLING)
        call.method = method
        call.address = address
        call.app = app
        if anchor is not None:
            call.anchor = anchor
            anchor.dependents_count += 1
        call.open_frame = frame
        call.receive_credit_bytes = credit_bytes
        size = len(data)
        if size > self.limits.small_bytes_max:
            call.queue = deque((data,))
            call.unsent_bytes = size
            call.is_waiting_ready = size > self._outbox.ready_bytes
            if half_close:
                # Behind the data; the OPEN takes it along again when all of it fits.
                opening.half_close = False
                call.tail = pb.Frame(half_close=True)
        self._calls_waiting[call] = None
        self._own_calls_count += 1
        self.has_carried = True
        # A one-way call has to leave whole, and may not be passed by for that.
        is_ordered = anchor is not None or opening.order_key != "" or opening.one_way
        self._outbox.add_opening(call, data_bytes=size, is_ordered=is_ordered)
        return call

    def _refuse_own(self, call: Call) -> None:
        """End a call that is one more than the peer takes, by event."""
        self.forget(call)
        self._events.append(CallEnded(call, self._make_too_many(call, self._own_calls_max)))

    # --- sending: either side ---

    def send_data(self, call: Call, data: bytes) -> None:
        """
        Queue bytes of the call's message stream; no-op once the call has ended.

        A writer that finds `call.unsent_bytes` above Limits.send_queue_bytes_high should wait for
        SendReady.
        """
        state = NEXT_STATE[call.state][_SEND_DATA]
        if state == NO_STATE:
            return
        call.state = state
        if call.queue is None:
            call.queue = deque()
        call.queue.append(data)
        call.unsent_bytes += len(data)
        if call.unsent_bytes > self._outbox.ready_bytes:
            call.is_waiting_ready = True
        self._outbox.schedule(call)

    def grant(self, call: Call, credit_bytes: int) -> None:
        """Let the peer send `credit_bytes` more; no-op once the call has ended or when it is 0."""
        if credit_bytes <= 0 or call.state == _ENDED:
            return
        call.receive_credit_bytes += credit_bytes
        self._outbox.add_grant(call, credit_bytes)

    # --- sending: calls opened here ---

    def half_close(self, call: Call) -> None:
        """Say that no more requests follow; no-op once the call has ended or was half closed."""
        state = NEXT_STATE[call.state][CallInput.SEND_HALF_CLOSE]
        if state == NO_STATE:
            return
        call.state = state
        call.tail = pb.Frame(half_close=True)
        self._outbox.schedule(call)

    # --- sending: calls opened by the peer ---

    def begin_call(
        self,
        call: Call,
        metadata: MetadataPairs = (),
        *,
        instance: str = "",
        remembers: bool = False,
    ) -> None:
        """
        Send initial metadata now; no-op once the call has ended.

        Raises:
            UsageError: It was sent before, or data was.
        """
        if call.state == _ENDED:
            return
        frame = pb.Frame(begin=pb.Begin(instance=instance, remembers=remembers))
        add_metadata(frame.begin.metadata, metadata)
        self.forward_begin(call, frame)

    def forward_begin(self, call: Call, frame: pb.Frame) -> None:
        """Send a BEGIN that arrived on another link, or was made here."""
        if call.state == _ENDED:
            return
        state = NEXT_STATE[call.state][CallInput.SEND_BEGIN]
        if state == NO_STATE:
            raise UsageError("initial metadata was sent already")
        call.state = state
        frame.call_id = call.id
        self._outbox.add_control(encode_frame(frame))
