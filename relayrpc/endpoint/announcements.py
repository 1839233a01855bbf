"""
What a live link announces: on its link of now, and on every one that follows it.

Owns: the announcements and the hub's answers to them. Does not own: when there is another link
(live_link.py).
Source: link.proto, Announce, Announced and Withdraw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relayrpc.errors import ConnectError, LinkRefusedError, RelayError


if TYPE_CHECKING:
    import logging

    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Announcement", "Announcements"]

# The hub has answered by then, or is out of reach.
_WITHDRAW_TIMEOUT_S: Final = 2.0


@dataclass(slots=True)
class Announcement:
    """One of them."""

    id: int
    address: str
    services: list[pb.ServiceDescription]
    slots: int
    priority: int
    labels: Mapping[str, str]
    answer: asyncio.Future[None]
    """Completed by the hub's first answer."""

    def send(self, link: Link) -> None:
        """Announce it on a link."""
        link.announce(
            self.id,
            self.address,
            self.services,
            slots=self.slots,
            priority=self.priority,
            labels=self.labels,
            was_accepted=self.answer.done() and not self.answer.cancelled(),
        )
        link.flush_soon()


class Announcements:
    """All of one live link."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._by_id: dict[int, Announcement] = {}
        self._id_last = 0
        # Completed by the hub's answers to Withdraw.
        self._withdrawals: dict[int, asyncio.Future[None]] = {}

    def add(
        self,
        address: str,
        services: list[pb.ServiceDescription],
        *,
        slots: int,
        priority: int,
        labels: Mapping[str, str],
    ) -> Announcement:
        """Add one, which is not sent yet."""
        self._id_last += 1
        answer = asyncio.get_running_loop().create_future()
        announcement = Announcement(
            self._id_last, address, services, slots, priority, labels, answer
        )
        self._by_id[announcement.id] = announcement
        return announcement

    def send_all(self, link: Link) -> None:
        """Announce everything on a new link."""
        for announcement in self._by_id.values():
            announcement.send(link)

    def answered(self, announced: pb.Announced) -> None:
        """Take an answer of the hub."""
        withdrawal = self._withdrawals.get(announced.id)
        if withdrawal is not None and announced.status:
            _complete(withdrawal)
        announcement = self._by_id.get(announced.id)
        if announcement is None:
            return
        if not announced.status:
            _complete(announcement.answer)
            return
        del self._by_id[announced.id]
        error = LinkRefusedError(
            f"the hub refused to register {announcement.address or 'the services'!r}: "
            f"{announced.details}",
            status=announced.status,
        )
        if announcement.answer.done():
            # Taken by a hub before this one: nobody waits to be told.
            self._logger.error("%s", error)
        else:
            announcement.answer.set_exception(error)

    def fail(self, error: RelayError) -> None:
        """Tell whoever waits for an answer that none will come."""
        for announcement in self._by_id.values():
            if not announcement.answer.done():
                announcement.answer.set_exception(error)

    def link_ended(self) -> None:
        """What was to be withdrawn is gone with the link."""
        for withdrawal in self._withdrawals.values():
            _complete(withdrawal)

    async def withdraw_all(self, link: Link, *, is_up: bool) -> None:
        """
        Take everything back.

        Args:
            link: Where to say so; without a carrier it is said when the link is resumed.
            is_up: The hub can answer; that is waited for, for a bounded time.
        """
        self.fail(ConnectError("the announcement was taken back"))
        withdrawn = list(self._by_id)
        self._by_id.clear()
        for announcement_id in withdrawn:
            link.withdraw(announcement_id)
        if not (is_up and withdrawn):
            return
        loop = asyncio.get_running_loop()
        for announcement_id in withdrawn:
            self._withdrawals[announcement_id] = loop.create_future()
        link.flush_soon()
        await asyncio.wait(self._withdrawals.values(), timeout=_WITHDRAW_TIMEOUT_S)
        self._withdrawals.clear()


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
