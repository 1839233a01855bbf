"""
The links of one hub: which link a new carrier belongs to, who replaces whom, and what parked links
may keep. Pure.

Owns: ids, secrets, epoch, bounds on links. Does not own: what goes over a link (link/link.py),
carriers (server.py).
Source: LINK.md "Resume, takeover, expiry"; link.proto, Hello, Resume, Welcome.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relayrpc.errors import (
    AbuseError,
    FrameDecodeError,
    ProtocolError,
    RelayError,
    TakeoverError,
    VersionError,
)
from relayrpc.link.frames import decode_batch, encode_unnumbered
from relayrpc.link.link import Link, LinkState
from relayrpc.v1 import link_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = ["Accepted", "LinkTable", "Refused"]

_INSTANCE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_VERSIONS_MAX: Final = 16
_FEATURES_MAX: Final = 64
_AGENT_CHARS_MAX: Final = 256
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_ATTEMPT_MAX: Final = 2**63
# Identity and instance.
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The carrier belongs to this link from now on."""

    link: Link
    attempt: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The carrier is to be sent this, and closed."""

    batch: bytes
    error: RelayError


class LinkTable:
    """All links of one run of a hub."""

    def __init__(self, *, limits: Limits, token_bytes: Callable[[int], bytes]) -> None:
        """
        Args:
            limits: Bounds on links and on what parked ones keep.
            token_bytes: Source of secrets: `secrets.token_bytes` but in a simulation.
        """
        self._limits = limits
        self._token_bytes = token_bytes
        self.epoch = token_bytes(_ID_BYTES)
        self._by_id: dict[bytes, Link] = {}
        self._by_instance: dict[_Key, Link] = {}
        # New links of instances that have one already: each takes over once its peer is heard of.
        self._newcomers: dict[Link, _Key] = {}
        # When links of an instance replaced each other, of late.
        self._takeovers_s: dict[_Key, list[float]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def links(self) -> list[Link]:
        """Every link that is not over, oldest first."""
        return list(self._by_id.values())

    def find(self, digits: str) -> Link | None:
        """Return the link whose id has these hexadecimal digits; None: there is none."""
        try:
            return self._by_id.get(bytes.fromhex(digits))
        except ValueError:
            return None

    def first_batch(
        self,
        data: bytes,
        *,
        peer: str,
        websocket_url: str,
        now_s: float,
        local_identity: str = "",
    ) -> Accepted | Refused:
        """
        Decide on the first batch of a new carrier.

        Args:
            data: The batch.
            peer: Where the carrier comes from, as gRPC writes it.
            websocket_url: Where the link may move to; "" for nowhere.
            now_s: Monotonic seconds.
            local_identity: Who the peer is, when it is a part of this hub; no peer beyond can have
                such a one. Empty: it comes from elsewhere.
        """
        try:
            batch = decode_batch(data, batch_bytes_max=self._limits.batch_bytes_max)
            body = batch.frames[0].WhichOneof("body") if len(batch.frames) == 1 else None
            if batch.number == 0 and body == "hello":
                return self._hello(
                    batch.frames[0].hello, peer, websocket_url, now_s, local_identity
                )
            if batch.number == 0 and body == "resume":
                return self._resume(batch.frames[0].resume, peer, websocket_url, now_s)
            raise ProtocolError(f"{body or 'nothing'} where hello or resume was due")
        except ProtocolError as exc:
            close = pb.Close(code=pb.Close.Code.Name(exc.close_code), reason=str(exc))
            return Refused(encode_unnumbered(pb.Frame(close=close)), exc)

    def _hello(
        self, hello: pb.Hello, peer: str, websocket_url: str, now_s: float, local_identity: str
    ) -> Accepted:
        if not _INSTANCE.fullmatch(hello.instance):
            raise FrameDecodeError("hello without an instance id of 1 to 128 of [A-Za-z0-9._-]")
        if len(hello.versions) > _VERSIONS_MAX or len(hello.features) > _FEATURES_MAX:
            raise FrameDecodeError("hello with too many versions or features")
        if not hello.versions:
            raise VersionError("hello offers no version", offered="[]")
        # Until rights exist a peer's identity is its instance id.
        identity = local_identity or hello.instance
        key = (identity, hello.instance)
        older = self._by_instance.get(key)
        if older is not None and older.state is LinkState.OPEN:
            self._check_takeover(key, older, peer, now_s)
        # One newcomer has the older link's place in the count.
        has_place = older is not None and key not in self._newcomers.values()
        if not has_place and len(self._by_id) >= self._limits.links_max:
            raise AbuseError(f"this hub holds {self._limits.links_max} links; try later")
        link = Link(
            is_dialler=False, limits=self._limits, instance=hello.instance, is_hub=True, now_s=now_s
        )
        link.peer_identity = identity
        link.is_local = bool(local_identity)
        link.peer_address = peer
        link.peer_agent = hello.agent[:_AGENT_CHARS_MAX]
        link.accept(
            hello,
            link_id=self._token_bytes(_ID_BYTES),
            secret=self._token_bytes(_SECRET_BYTES),
            epoch=self.epoch,
            websocket_url=websocket_url,
        )
        self._by_id[link.link_id] = link
        if older is None:
            self._by_instance[key] = link
        else:
            self._newcomers[link] = key
        return Accepted(link, attempt=0, is_new=True)

    def _check_takeover(self, key: _Key, older: Link, peer: str, now_s: float) -> None:
        limits = self._limits
        taken_s = self._takeovers_s.get(key, ())
        recent = sum(now_s - at_s < limits.takeovers_window_s for at_s in taken_s)
        if recent >= limits.takeovers_max:
            raise TakeoverError(
                f"instance {key[1]!r} is linked from {older.peer_address}, and links from it and "
                f"from {peer} replaced each other {recent} times within "
                f"{limits.takeovers_window_s:g} s; give every process an instance id of its own"
            )

    def heard_of(self, link: Link, *, now_s: float) -> Link | None:
        """
        Let a new link that its peer uses take the place of the older one of its instance.

        A Hello alone does not: a connection that stalled may deliver it when its process is long
        gone, and its successor must not be put out by it.

        Returns:
            The older link, ended; its events and its Close are to be seen to. None: there is none.
        """
        key = self._newcomers.pop(link, None)
        if key is None:
            return None
        older = self._by_instance.get(key)
        self._by_instance[key] = link
        if older is None:
            return None
        if older.state is LinkState.OPEN:
            # Two that are both there; one that lost its carrier is a process that came back.
            taken_s = self._takeovers_s.setdefault(key, [])
            taken_s.append(now_s)
            del taken_s[: -self._limits.takeovers_max]
        self.remove(older)
        older.close(
            code=pb.Close.CODE_REPLACED,
            reason=f"instance {link.instance} opened a new link from {link.peer_address}",
        )
        return older

    @property
    def has_newcomers(self) -> bool:
        """True while a link waits to take the place of an older one."""
        return bool(self._newcomers)

    def _resume(
        self, resume: pb.Resume, peer: str, websocket_url: str, now_s: float
    ) -> Accepted | Refused:
        link = self._by_id.get(resume.link_id)
        if link is None or not hmac.compare_digest(resume.epoch, self.epoch):
            # Unknown, over, or from before this hub's start: the same answer.
            return _expired("unknown link")
        if not hmac.compare_digest(resume.secret, link.secret) or resume.instance != link.instance:
            # A guess must not learn that the link exists, and must not end it.
            return _expired("unknown link")
        if not 0 < resume.attempt < _ATTEMPT_MAX:
            raise FrameDecodeError(f"resume attempt {resume.attempt}")
        refusal = link.accept_resume(resume, now_s=now_s, websocket_url=websocket_url)
        if refusal == "attempt":
            raise ProtocolError(f"resume attempt {resume.attempt} is not above the last")
        if refusal:
            return _expired("a batch is no longer held")
        link.peer_address = peer
        return Accepted(link, attempt=resume.attempt, is_new=False)

    def remove(self, link: Link) -> None:
        """Forget a link that is over; idempotent."""
        if self._by_id.get(link.link_id) is link:
            del self._by_id[link.link_id]
        self._newcomers.pop(link, None)
        key = (link.peer_identity, link.instance)
        if self._by_instance.get(key) is link:
            del self._by_instance[key]
            self._takeovers_s.pop(key, None)

    def links_to_expire(self) -> list[Link]:
        """
        Choose parked links that keep more than they may: the oldest of the heaviest identity first.

        Call after a carrier was lost; close what it returns with CODE_LIMIT.
        """
        parked = [link for link in self._by_id.values() if link.state is LinkState.PARKED]
        weights: dict[str, int] = {}
        for link in parked:
            weights[link.peer_identity] = weights.get(link.peer_identity, 0) + link.held_bytes
        chosen: list[Link] = []
        while weights:
            heaviest = max(weights, key=lambda identity: weights[identity])
            total = sum(weights.values())
            if (
                total <= self._limits.parked_bytes_max
                and weights[heaviest] <= self._limits.parked_identity_bytes_max
            ):
                break
            oldest = next(
                link for link in parked if link.peer_identity == heaviest and link not in chosen
            )
            chosen.append(oldest)
            weights[heaviest] -= oldest.held_bytes
            if weights[heaviest] <= 0:
                del weights[heaviest]
        return chosen


def _expired(reason: str) -> Refused:
    return Refused(
        encode_unnumbered(pb.Frame(expired=pb.Expired(reason=reason))),
        ProtocolError(f"resume refused: {reason}"),
    )
