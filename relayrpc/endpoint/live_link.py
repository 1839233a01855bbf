"""
A link that stays: it dials, announces, resumes, moves to the faster carrier, and leaves a hub that
goes away for the next.

Owns: when there is to be a carrier or another link, what is announced. Does not own: which hub and
door is dialled (dialler.py), the protocol (link/link.py), the pumping (carrier/driver.py), what a
call means (channel.py, server.py). One task per link, none per call.
Source: LINK.md "Resume, takeover, expiry"; DESIGN.md decision 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import platform
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import grpc

from relayrpc import __version__
from relayrpc.carrier.driver import LinkDriver
from relayrpc.endpoint.announcements import Announcements
from relayrpc.endpoint.dialler import DIALLING, Dialler, Dialling, is_final
from relayrpc.endpoint.silent_call import refuse_callback
from relayrpc.errors import CarrierError, ConnectError, LinkRefusedError, RelayError
from relayrpc.link.call import STATUS_DEADLINE_EXCEEDED, Call, make_end
from relayrpc.link.events import (
    AnnouncedReceived,
    BeginReceived,
    CallEnded,
    CallOpened,
    DataReceived,
    DeadlinePassed,
    Event,
    GoingAwayReceived,
    HalfCloseReceived,
    LinkEnded,
    SendReady,
    WelcomeReceived,
)
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    import random

    from relayrpc.carrier.base import Carrier, CarrierKind
    from relayrpc.carrier.tls import TLSOptions
    from relayrpc.carrier.url import RelayURL
    from relayrpc.errors import CarrierLostError
    from relayrpc.limits import Limits
    from relayrpc.observe.tracing import Tracing


__all__ = ["LiveLink", "MakeLive"]

_AGENT: Final = f"relayrpc/{__version__} python/{platform.python_version()}"
_INSTANCE_BYTES: Final = 12
# Close has left by then, or will never arrive.
_CLOSE_TIMEOUT_S: Final = 1.0
_State = grpc.ChannelConnectivity


_links: Final[weakref.WeakSet[LiveLink]] = weakref.WeakSet()


class MakeLive(Protocol):
    """Makes a link, given who takes its calls: a `functools.partial` of LiveLink."""

    def __call__(self, *, on_call: Callable[[Call, pb.Open], None]) -> LiveLink: ...


class LiveLink:
    """
    One endpoint's connection to a hub. Everything runs on the loop it was started on.

    Attributes for reading: `limits`, `instance`.
    """

    def __init__(
        self,
        urls: Sequence[RelayURL],
        *,
        limits: Limits,
        tls: TLSOptions | None = None,
        instance: str | None = None,
        on_call: Callable[[Call, pb.Open], None] | None = None,
        keep_trying: bool = False,
        dialling: Dialling = DIALLING,
    ) -> None:
        """
        Args:
            urls: Where the hubs are, the first choice first; the link is to one at a time.
            limits: This endpoint's bounds.
            tls: How to verify the hub; None: the system's certificates.
            instance: This process's instance id; None: random.
            on_call: Takes calls that the hub opens, and sets `call.app`; None: they are answered
                UNIMPLEMENTED.
            keep_trying: The first connection may take as long as it takes; else every hub is tried
                once.
            dialling: How to dial, and what time it is.
        """
        self.limits = limits
        self.instance = instance or dialling.token_hex(_INSTANCE_BYTES)
        self._is_instance_random = not instance
        self._tls = tls
        self._dialler = Dialler(
            urls,
            limits=limits,
            tls=tls,
            dialling=dialling,
            ask_for_door=self._ask_for_websocket_door,
        )
        self._on_call = on_call
        self._keep_trying = keep_trying
        self._dialling = dialling
        self._logger = dialling.logger
        self._task: asyncio.Task[None] | None = None
        # Set whenever the task should look again.
        self._wake = asyncio.Event()
        self._state = _State.IDLE
        self._state_callbacks: list[Callable[[grpc.ChannelConnectivity], None]] = []
        self._going_away_callbacks: list[Callable[[Link], None]] = []
        self._is_closed = False
        self._has_connected = False
        # Why there is no link now; None while there is one or nothing was tried.
        self._error: RelayError | None = None
        # The last link that a hub had taken, over or not.
        self._taken_link: Link | None = None
        # Why the link before this one ended.
        self._ended_by: RelayError | None = None
        # The last attempt to connect failed: new calls that do not want to wait fail at once.
        self._is_failing = False
        self._is_final = False
        self._waiters: list[asyncio.Future[None]] = []
        self._announcements = Announcements(self._logger)
        # Links that finish their calls while the hub drains.
        self._draining: dict[Link, LinkDriver] = {}
        self._link: Link | None = None
        self._driver: LinkDriver | None = None
        _links.add(self)

    # --- looking in ---

    @property
    def url(self) -> RelayURL:
        """The hub that the link is to, or is tried next."""
        return self._dialler.url

    @property
    def link(self) -> Link:
        """
        The link for new calls; another one after the hub drained or the link expired. Only after
        start().
        """
        assert self._link is not None
        return self._link

    @property
    def state(self) -> grpc.ChannelConnectivity:
        """READY while a carrier is there."""
        return self._state

    @property
    def carrier(self) -> Carrier | None:
        """What the link runs over now; None while it has no carrier."""
        return None if self._driver is None else self._driver.carrier

    @property
    def carrier_kind(self) -> CarrierKind | None:
        """The kind of `carrier`."""
        carrier = self.carrier
        return None if carrier is None else carrier.kind

    def now_s(self) -> float:
        """Monotonic seconds, the clock of every deadline on this link."""
        return self._dialling.clock()

    @property
    def random(self) -> random.Random:
        """The source of jitter on this link."""
        return self._dialling.random

    def token_hex(self, bytes_count: int) -> str:
        """Make an id of so many random bytes, written in hex."""
        return self._dialling.token_hex(bytes_count)

    def find_tracing(self) -> Tracing | None:
        """Return what makes the spans of this process's calls; None: they have none."""
        return self._dialling.find_tracing()

    def add_state_callback(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Have every change of `state` told."""
        self._state_callbacks.append(callback)

    def remove_state_callback(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Undo add_state_callback(); no-op when it is not there."""
        if callback in self._state_callbacks:
            self._state_callbacks.remove(callback)

    def add_going_away_callback(self, callback: Callable[[Link], None]) -> None:
        """Have every link told whose hub goes away: what runs on it may finish."""
        self._going_away_callbacks.append(callback)

    # --- life ---

    def start(self) -> None:
        """Begin to connect in the background; idempotent. Needs a running loop."""
        if self._task is None and not self._is_closed:
            self._new_link()
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"relayrpc link to {self.url.authority}"
            )

    def renew_instance(self) -> None:
        """In the child of a fork: a link that was not started is not the parent's instance."""
        if self._task is None and self._is_instance_random:
            self.instance = self._dialling.token_hex(_INSTANCE_BYTES)

    async def connected(self) -> None:
        """
        Wait until the link is up and its announcements are accepted.

        Raises:
            ConnectError: The first connection failed and keep_trying is off.
            LinkRefusedError: The hub said no.
        """
        self.start()
        while not self._is_up():
            if self._is_closed:
                raise ConnectError("the link was closed")
            if self._error is not None and (
                self._is_final or not (self._has_connected or self._keep_trying)
            ):
                raise self._error
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def lost(self) -> RelayError:
        """Wait until there will be no link any more although nobody closed it; returns why."""
        while not (self._is_final and self._error is not None):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._error

    async def announce(
        self,
        address: str,
        services: list[pb.ServiceDescription],
        *,
        slots: int = 0,
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """
        Serve at an address, on this link and every one that follows it. Call after connected().

        Args:
            address: Empty: each service at its default address.
            services: What is served.
            slots: Calls at once, the hub keeps the rest waiting; 0: any number.
            priority: Above 0: stand by for hosts of a lower number.
            labels: By which this host is found.

        Raises:
            LinkRefusedError: The hub refused the announcement.
        """
        announcement = self._announcements.add(
            address, services, slots=slots, priority=priority, labels=labels or {}
        )
        if self.link.state is not LinkState.CONNECTING:
            # Else Welcome sends it.
            announcement.send(self.link)
        await announcement.answer

    async def withdraw_all(self) -> None:
        """
        Take every announcement back; running calls go on.

        Returns when the hub has said that no new ones come, or cannot be asked.
        """
        if self._link is not None:
            await self._announcements.withdraw_all(self._link, is_up=self._is_up())

    async def aclose(self) -> None:
        """End what is left, say Close, and end the carrier. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._wake.set()
        if self._task is not None:
            # Not awaited itself: its cancellation could not be told from one of this task.
            self._task.cancel()
            await asyncio.wait([self._task])
        drivers = dict(self._draining)
        if self._link is not None and self._driver is not None:
            drivers[self._link] = self._driver
        for link, driver in drivers.items():
            link.close()
            self._settle(link)
            driver.flush_soon()
        for driver in drivers.values():
            await driver.carriers_over(timeout_s=_CLOSE_TIMEOUT_S)
        self._set_state(_State.SHUTDOWN)
        self._wake_waiters()

    # --- the task ---

    async def _run(self) -> None:
        dialler = self._dialler
        while not self._is_closed and not self._is_final:
            await self._pause(dialler.pause_s())
            self._set_state(_State.CONNECTING)
            link = self.link
            try:
                await self._connect()
            except RelayError as exc:
                self._not_connected(link, exc)
                continue
            since_s = self.now_s()
            self._connected()
            if dialler.can_move:
                await self._move()
            while self._is_up():
                self._wake.clear()
                await self._wake.wait()
            # A hub that welcomes a link only to end it is not to be dialled in a tight loop.
            if link.is_closed and self.now_s() - since_s < self.limits.backoff_s_max:
                dialler.grow_backoff()
            else:
                dialler.reset_backoff()
            self._set_state(_State.CONNECTING)

    async def _pause(self, pause_s: float) -> None:
        """Let a while pass between attempts; less when the link ends, as others are tried then."""
        link = self._link
        if not pause_s:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                while self._link is link:
                    self._wake.clear()
                    await self._wake.wait()

    async def _connect(self) -> None:
        """Open a carrier and complete the handshake on it."""
        link = self.link
        carrier = await self._dial_while(
            lambda: self._link is link and not self._is_closed, self._dialler.dial()
        )
        if carrier is None:
            raise self._ended_by or ConnectError("the link ended while it was dialled")
        await self._handshake(carrier)

    def _not_connected(self, link: Link, error: RelayError) -> None:
        """See how to go on when a link could not be connected."""
        dialler = self._dialler
        if link is not self._taken_link:
            told = dialler.failed(error)
            if told is not None:
                self._failed(told, str(dialler))
                dialler.grow_backoff()
        elif link is self._link:
            # It can be resumed at its hub, and nowhere else.
            self._failed(error, str(self.url))
            dialler.grow_backoff()
        else:
            # There is nothing to resume any more: begin another one at once.
            dialler.reset_backoff()

    async def _ask_for_websocket_door(self, url: RelayURL) -> str:
        """Ask the gRPC door on a link that carries nothing; empty where the hub names none."""
        asking = LiveLink(
            [replace(url, pinned="grpc", may_move=False)],
            limits=self.limits,
            tls=self._tls,
            dialling=self._dialling,
        )
        try:
            await asking.connected()
            return asking._dialler.websocket_url
        finally:
            await asking.aclose()

    async def _handshake(self, carrier: Carrier) -> None:
        link, driver = self.link, self._driver
        assert driver is not None
        if link.is_closed:
            carrier.abort()
            raise ConnectError("the link ended while it was dialled")
        attempt = link.carrier_opened(now_s=self.now_s())
        driver.attach(carrier, attempt)
        patience = asyncio.timeout(self.limits.handshake_timeout_s)
        try:
            async with patience:
                while link.attempt != attempt or link.state is LinkState.CONNECTING:
                    if link.is_closed:
                        raise self._ended_by or ConnectError("the hub ended the link")
                    if not driver.has_attempt(attempt):
                        raise ConnectError(
                            f"the hub at {self.url.authority} dropped the connection "
                            "in the handshake"
                        )
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            if not patience.expired():
                # Why the link ended: its resume window was over.
                raise
            driver.drop(attempt)
            raise ConnectError(
                f"the hub at {self.url.authority} did not answer the handshake "
                f"within {self.limits.handshake_timeout_s:g} s"
            ) from None
        if link.is_closed:
            raise self._ended_by or ConnectError("the hub ended the link")

    async def _move(self) -> None:
        """Go over to the hub's WebSocket door; where that fails, stay until the next reconnect."""
        try:
            carrier = await self._dial_while(self._is_up, self._dialler.dial_to_move())
            if carrier is None:
                # It lost its carrier meanwhile: mend that first.
                return
            await self._handshake(carrier)
        except RelayError as exc:
            self._logger.info("the link stays on %s: %s", self.carrier_kind, exc)
        else:
            self._logger.info("the link moved to %s", self.carrier_kind)

    async def _dial_while(
        self, is_wanted: Callable[[], bool], dialling: Awaitable[Carrier]
    ) -> Carrier | None:
        """Wait for a carrier that is dialled; None when it is no longer wanted."""
        task = asyncio.ensure_future(dialling)
        task.add_done_callback(lambda _: self._wake.set())
        is_taken = False
        try:
            while is_wanted():
                if task.done():
                    is_taken = True
                    return task.result()
                self._wake.clear()
                await self._wake.wait()
            return None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            # Also when this task is cancelled while the carrier is wanted: nobody else has it.
            if not is_taken and not task.cancelled() and task.exception() is None:
                task.result().abort()

    def _new_link(self) -> None:
        old, old_driver = self._link, self._driver
        if old is not None and old_driver is not None and not old.is_closed:
            self._draining[old] = old_driver
        link = Link(
            is_dialler=True,
            limits=self.limits,
            instance=self.instance,
            agent=_AGENT,
            now_s=self.now_s(),
        )
        self._link = link
        self._driver = LinkDriver(
            link,
            loop=asyncio.get_running_loop(),
            clock=self._dialling.clock,
            events_received=functools.partial(self._events_received, link),
            carrier_ended=self._carrier_ended,
            flushed=functools.partial(self._flushed, link),
        )

    def _is_up(self) -> bool:
        link = self._link
        return (
            self._has_connected
            and link is not None
            and link.state is LinkState.OPEN
            and not link.is_draining
            and not self._is_closed
        )

    def _connected(self) -> None:
        self._dialler.succeeded()
        self._taken_link = self._link
        self._has_connected = True
        self._is_failing = False
        self._error = None
        self._logger.info("linked to %s over %s", self.url, self.carrier_kind)
        self._set_state(_State.READY)
        self._wake_waiters()

    def _failed(self, error: RelayError, where: str) -> None:
        self._is_failing = True
        self._error = error
        self._logger.log(
            logging.INFO if isinstance(error, CarrierError) else logging.WARNING,
            "no link to %s: %s",
            where,
            error,
        )
        self._fail_waiting(self.link)
        if is_final(error):
            self._give_up(error)
        self._set_state(_State.TRANSIENT_FAILURE)
        self._wake_waiters()

    def _give_up(self, error: RelayError) -> None:
        """End for good: the hubs said no to us, or somebody took our place."""
        self._is_final = True
        self._error = error
        self._announcements.fail(error)
        # Nobody is to wait for what will not come.
        self.link.close()
        self._settle(self.link)

    def _set_state(self, state: grpc.ChannelConnectivity) -> None:
        if state is not self._state and self._state is not _State.SHUTDOWN:
            self._state = state
            for callback in list(self._state_callbacks):
                callback(state)

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- what the driver reports ---

    def _flushed(self, link: Link) -> None:
        if self._is_failing and link.state is LinkState.CONNECTING:
            # Dialling fails: whoever did not ask to wait is told at once, as with any gRPC channel.
            self._fail_waiting(link)
        elif link.is_draining and link in self._draining and link.is_idle:
            link.close()
            self._settle(link)
            link.flush_soon()

    def _fail_waiting(self, link: Link) -> None:
        if link.state is LinkState.CONNECTING:
            link.fail_waiting(str(self._error))
            self._settle(link)

    def _settle(self, link: Link) -> None:
        events = link.events_received()
        if events:
            self._events_received(link, events)

    def _carrier_ended(self, carrier: Carrier, error: CarrierLostError | None) -> None:
        self._logger.info("the %s carrier is over (%s)", carrier.kind, error or "closed")
        self._wake.set()

    def _events_received(self, link: Link, events: list[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is CallEnded:
                event.call.app.call_ended(event.frame.end)  # type: ignore[attr-defined]
            elif kind is DataReceived:
                event.call.app.data_received(event.data)  # type: ignore[attr-defined]
            elif kind is CallOpened:
                self._call_opened(event.call, event.frame.open)  # type: ignore[attr-defined]
            else:
                self._handle_rare(link, event)

    def _call_opened(self, call: Call, opening: pb.Open) -> None:
        if self._on_call is None:
            refuse_callback(call, "its channel was made without")
        else:
            self._on_call(call, opening)

    def _handle_rare(self, link: Link, event: Event) -> None:
        match event:
            case HalfCloseReceived(call=call):
                call.app.half_close_received()
            case BeginReceived(call=call, frame=frame):
                call.app.begin_received(frame.begin)
            case SendReady(call=call):
                if not call.is_ended:
                    call.app.send_ready()
            case DeadlinePassed(call=call):
                end = make_end(
                    STATUS_DEADLINE_EXCEEDED, "Deadline Exceeded", origin=pb.End.ORIGIN_HOST
                )
                app = call.app
                link.forward_end(call, end, discard=True)
                app.call_ended(end.end)
            case WelcomeReceived(welcome=welcome, is_resumed=is_resumed):
                self._welcomed(link, welcome, is_resumed=is_resumed)
            case AnnouncedReceived(announced=announced):
                if link is self._link:
                    self._announcements.answered(announced)
            case GoingAwayReceived(going_away=going_away):
                self._logger.info("the hub goes away: %s", going_away.reason)
                if link is self._link:
                    # From here on calls wait in the next one.
                    self._new_link()
                    self._go_on()
                for callback in self._going_away_callbacks:
                    callback(link)
                self._wake.set()
            case LinkEnded(error=error):
                self._link_ended(link, error)
            case _:
                # GrantReceived: the link counts credit itself.
                pass

    def _welcomed(self, link: Link, welcome: pb.Welcome, *, is_resumed: bool) -> None:
        if welcome.websocket_url:
            self._dialler.websocket_url = welcome.websocket_url
        if not is_resumed:
            self._announcements.send_all(link)
        self._wake.set()

    def _link_ended(self, link: Link, error: RelayError | None) -> None:
        self._draining.pop(link, None)
        if link is not self._link:
            return
        self._announcements.link_ended()
        self._ended_by = error
        self._wake.set()
        if self._is_closed or self._is_final:
            return
        was_taken = link is self._taken_link
        if was_taken and is_final(error):
            assert error is not None
            self._give_up(error)
            self._set_state(_State.TRANSIENT_FAILURE)
            self._wake_waiters()
            return
        # From here on calls wait in the next one.
        self._new_link()
        if not was_taken:
            # It ended in its handshake: _not_connected() sees to that.
            return
        if isinstance(error, LinkRefusedError) and "code" not in error.detail:
            # The hub is there, and no longer holds the link.
            self._is_failing = False
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Have the next hub tried, and calls wait for it, where there is one."""
        if self._dialler.go_on():
            self._is_failing = False


def _forked() -> None:
    for link in list(_links):
        link.renew_instance()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
