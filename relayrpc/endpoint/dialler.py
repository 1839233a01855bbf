"""
Which hub a live link dials, at which of its doors, and how long it pauses between.

Owns: the order of several hubs, what is told when none of them takes the link, the backoff. Does
not own: the link and its handshake (live_link.py), opening a carrier (carrier/dial.py).
Source: docs/reference/failover.md; LINK.md "Resume, takeover, expiry".
"""

from __future__ import annotations

import logging
import random as random_module
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from relayrpc.carrier.dial import dial, dial_websocket_url
from relayrpc.errors import ConnectError, LinkRefusedError, RelayError
from relayrpc.observe.tracing import Tracing, find_tracing
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    import random

    from relayrpc.carrier.base import Carrier
    from relayrpc.carrier.tls import TLSOptions
    from relayrpc.carrier.url import RelayURL
    from relayrpc.limits import Limits


__all__ = ["DIALLING", "Dialler", "Dialling", "is_final"]

_LOGGER: Final = logging.getLogger("relayrpc.link")
_BACKOFF_FACTOR: Final = 1.6
_BACKOFF_JITTER: Final = 0.2
_HINT: Final = "use carrier='auto', carrier='grpc' or the door's own ws:// or wss:// URL"
# Answers of a hub after which dialling it again would be wrong: it said no to us, or somebody took
# our place.
_FINAL_CODES: Final = frozenset(
    {pb.Close.CODE_REPLACED, pb.Close.CODE_VERSION, pb.Close.CODE_REFUSED}
)


@dataclass(frozen=True, slots=True)
class Dialling:
    """What a live link takes from its surroundings; simulations and tests give their own."""

    dial: Callable[..., Awaitable[Carrier]] = dial
    """As carrier.dial.dial."""
    dial_websocket_url: Callable[..., Awaitable[Carrier]] = dial_websocket_url
    """As carrier.dial.dial_websocket_url."""
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds."""
    random: random.Random = field(default_factory=random_module.Random)
    """Jitter of the backoff."""
    token_hex: Callable[[int], str] = secrets.token_hex
    """Source of the ids of instances, and of what goes wrong on them."""
    find_tracing: Callable[[], Tracing | None] = find_tracing
    """Says what makes the spans of calls; None: nothing does."""
    logger: logging.Logger = _LOGGER
    """Where it is said how the link fares."""


DIALLING: Final = Dialling()


class Dialler:
    """
    Opens carriers to one of several hubs, and stays with the one that works.

    A round is one attempt at each hub, beginning with the one of now.
    """

    def __init__(
        self,
        urls: Sequence[RelayURL],
        *,
        limits: Limits,
        tls: TLSOptions | None,
        dialling: Dialling,
        ask_for_door: Callable[[RelayURL], Awaitable[str]],
    ) -> None:
        """
        Args:
            urls: Where the hubs are, the first choice first; at least one.
            limits: The endpoint's.
            tls: How to verify the hubs; None: the system's certificates.
            dialling: How to dial.
            ask_for_door: Asks the gRPC door of a hub for the URL of its WebSocket door; empty where
                it names none.
        """
        self._urls = tuple(urls)
        self._limits = limits
        self._tls = tls
        self._dialling = dialling
        self._ask_for_door = ask_for_door
        self._index = 0
        # Who did not take the link in this round, and why.
        self._refusals: list[tuple[RelayURL, RelayError]] = []
        self._backoff_s = 0.0
        # Of the hub of now: where the link moves to, from its last Welcome over gRPC;
        self.websocket_url = ""
        # ... and the WebSocket door that opened last, where the URL names the gRPC door and the
        # WebSocket is pinned.
        self._pinned_door = ""

    @property
    def url(self) -> RelayURL:
        """The hub of now."""
        return self._urls[self._index]

    def __str__(self) -> str:
        return ", ".join(str(url) for url in self._urls)

    # --- which hub, and when ---

    def go_on(self) -> bool:
        """Begin a round with the next hub; False where there is one only."""
        self._refusals.clear()
        if len(self._urls) == 1:
            return False
        self._index = (self._index + 1) % len(self._urls)
        self.websocket_url = self._pinned_door = ""
        return True

    def failed(self, error: RelayError) -> RelayError | None:
        """
        Note that the hub of now did not take the link.

        Returns:
            What to tell when the round is over: the error, or one that names them all. Else None:
            the next hub is to be tried at once.
        """
        refusals = [*self._refusals, (self.url, error)]
        if len(refusals) < len(self._urls):
            self._dialling.logger.info("%s does not take the link: %s", self.url, error)
            self.go_on()
            self._refusals = refusals
            return None
        self.go_on()
        if len(refusals) == 1:
            return error
        text = "no hub takes the link: " + "; ".join(_named(*each) for each in refusals)
        if all(is_final(each) for _, each in refusals):
            return LinkRefusedError(text, **error.detail)
        return ConnectError(text)

    def succeeded(self) -> None:
        """Note that the hub of now has the link."""
        self._refusals.clear()

    def reset_backoff(self) -> None:
        """Dial at once the next time."""
        self._backoff_s = 0.0

    def grow_backoff(self) -> None:
        """Pause before the next time, and longer than the last."""
        limits = self._limits
        self._backoff_s = min(
            max(self._backoff_s * _BACKOFF_FACTOR, limits.backoff_s_min), limits.backoff_s_max
        )

    def pause_s(self) -> float:
        """Return how long to wait before the next time."""
        if not self._backoff_s:
            return 0.0
        uniform = self._dialling.random.uniform
        return self._backoff_s * uniform(1 - _BACKOFF_JITTER, 1 + _BACKOFF_JITTER)

    # --- which door ---

    async def dial(self) -> Carrier:
        """
        Open a carrier to the hub of now, at the door that its URL names or pins.

        Raises:
            ConnectError: That failed.
        """
        url = self.url
        if url.first_carrier == "grpc" and url.pinned == "websocket":
            return await self._dial_pinned_door(url)
        return await self._dialling.dial(
            url, kind=url.first_carrier, tls=self._tls, limits=self._limits
        )

    @property
    def can_move(self) -> bool:
        """True when there is a door to move to; never from TLS to plain."""
        url, target = self.url, self.websocket_url
        return url.may_move and bool(target) and (not url.is_secure or _is_secure(target))

    async def dial_to_move(self) -> Carrier:
        """
        Open a carrier to the door that the hub named as the faster one.

        Raises:
            ConnectError: That failed.
        """
        return await self._dial_websocket(self.websocket_url)

    async def _dial_pinned_door(self, url: RelayURL) -> Carrier:
        """Open the WebSocket door of a hub whose URL names the gRPC door."""
        target = self._pinned_door or await self._ask_for_door(url)
        # Asked for again unless it opens.
        self._pinned_door = ""
        if not target:
            raise ConnectError(f"the hub at {url.authority} names no WebSocket door; {_HINT}")
        if url.is_secure and not _is_secure(target):
            raise ConnectError(
                f"the hub at {url.authority} names a WebSocket door without TLS; {_HINT}"
            )
        try:
            carrier = await self._dial_websocket(target)
        except ConnectError as exc:
            door = f"the WebSocket door of {url.authority}"
            raise ConnectError(f"{exc} ({door}); {_HINT}") from exc
        self._pinned_door = target
        return carrier

    async def _dial_websocket(self, target: str) -> Carrier:
        return await self._dialling.dial_websocket_url(target, tls=self._tls, limits=self._limits)


def is_final(error: RelayError | None) -> bool:
    """Say whether a hub said no for good."""
    return isinstance(error, LinkRefusedError) and error.detail.get("code") in _FINAL_CODES


def _named(url: RelayURL, error: RelayError) -> str:
    """Tell an error so that it names its hub."""
    text = str(error)
    return text if url.authority in text else f"{url.authority}: {text}"


def _is_secure(target: str) -> bool:
    return target.startswith("wss://")
