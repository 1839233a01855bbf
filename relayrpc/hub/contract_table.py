"""
The contracts of a hub: which host announced which fingerprints, the descriptor sets that are kept,
and whom to ask for those that are not. Pure.

Owns: what is kept and what goes when there is no room; which version is the answer. Does not own:
asking (contracts.py), what a set is (contract/descriptors.py).
Source: docs/adr/0016-contract-fingerprint.md; protos/relayrpc/v1/host.proto.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from relayrpc.contract.address import services_of
from relayrpc.errors import ContractError


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relayrpc.contract.descriptors import DescriptorSet
    from relayrpc.hub.routing import Registration
    from relayrpc.limits import Limits
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["Contract", "ContractTable", "Failure"]


class Failure(Enum):
    """Why there are no descriptors from a host that was asked."""

    AWAY = auto()
    """It gave no answer; it may, if it is asked again."""
    LIE = auto()
    """It gave what it had not announced."""
    BROKEN = auto()
    """What it gave cannot be used, whoever else gives it."""
    NO_ROOM = auto()
    """The hub cannot keep what it gave."""


@dataclass(eq=False, slots=True)
class Contract:
    """What is known of one fingerprint."""

    fingerprint: bytes
    links: Counter[Link] = field(default_factory=Counter)
    """How often each link announces it."""
    descriptors: DescriptorSet | None = None
    """Checked; None: they are not here."""
    number: int = 0
    """1, 2, 3 ... in the order in which the hub came to know descriptors."""
    fault: str = ""
    """Why they are not here; empty: they are, or somebody can still be asked."""
    is_final: bool = False
    """Nobody is to be asked again: they are here, or whoever has them has no better ones."""
    is_broken: bool = False
    """They cannot be used, and so is whoever announces them."""
    lies: dict[Link, str] = field(default_factory=dict)
    """Who gave something else, and what."""


class ContractTable:
    """All fingerprints of one hub."""

    def __init__(self, limits: Limits) -> None:
        """
        Args:
            limits: `contracts_*` count here.
        """
        self._limits = limits
        self._contracts: dict[bytes, Contract] = {}
        # What each link has announced and can still be asked for, whoever has waited longest first.
        self._wanted: dict[Link, dict[bytes, None]] = {}
        # Who is being asked for what: one thing at a time.
        self._asked: dict[Link, bytes] = {}
        # Those with descriptors, the newest last.
        self._kept: dict[bytes, Contract] = {}
        self._kept_bytes = 0
        # Of those, the ones that no host has any more, longest left first.
        self._left: dict[bytes, None] = {}
        self._numbers_given = 0

    # --- hosts ---

    def announced(self, link: Link, announce: pb.Announce) -> bool:
        """
        Note what a host announced.

        Returns:
            True when `next_ask()` may have something new: not of a thousand hosts that come back
            while one of them is asked for what all of them have.
        """
        is_new = False
        for fingerprint in _fingerprints(announce):
            contract = self._contracts.get(fingerprint)
            if contract is None:
                contract = self._contracts[fingerprint] = Contract(fingerprint)
            self._left.pop(fingerprint, None)
            contract.links[link] += 1
            if not contract.is_final:
                self._wanted.setdefault(link, {})[fingerprint] = None
                is_new = is_new or fingerprint not in self._asked.values()
        return is_new

    def withdrawn(self, link: Link, announce: pb.Announce) -> None:
        """Forget what a host announced; its descriptors stay for one that comes back."""
        for fingerprint in _fingerprints(announce):
            contract = self._contracts[fingerprint]
            contract.links[link] -= 1
            if contract.links[link]:
                continue
            del contract.links[link]
            contract.lies.pop(link, None)
            self._do_not_want(link, fingerprint)
            if not contract.links:
                if contract.descriptors is None:
                    del self._contracts[fingerprint]
                else:
                    self._left[fingerprint] = None

    # --- asking ---

    def next_ask(self) -> tuple[Link, bytes] | None:
        """
        Choose whom to ask for what; None: nobody now. Answer with `keep()` or `give_up()`.

        Returns:
            A link, which is asked for one thing at a time, and a fingerprint.
        """
        for link, wanted in self._wanted.items():
            if link in self._asked:
                continue
            asked = self._asked.values()
            fingerprint = next((each for each in wanted if each not in asked), None)
            if fingerprint is not None:
                # Others have their turn before it is asked again.
                self._wanted[link] = self._wanted.pop(link)
                self._asked[link] = fingerprint
                return link, fingerprint
        return None

    def want_again(self, contract: Contract) -> None:
        """Have the hosts of a contract asked again that could not give it."""
        contract.fault = ""
        contract.lies.clear()
        for link in contract.links:
            self._wanted.setdefault(link, {})[contract.fingerprint] = None

    def is_wanted(self, fingerprint: bytes) -> bool:
        """Say whether somebody is asked for descriptors, or will be."""
        contract = self._contracts.get(fingerprint)
        return contract is not None and any(
            fingerprint in self._wanted.get(link, ()) for link in contract.links
        )

    def is_wanted_of(self, link: Link, announce: pb.Announce) -> bool:
        """Say whether a host is asked for what it announced, or will be."""
        wanted = self._wanted.get(link, {})
        return any(fingerprint in wanted for fingerprint in _fingerprints(announce))

    def keep(self, link: Link, descriptors: DescriptorSet) -> None:
        """
        Keep what a link gave, and ask nobody else for it.

        Raises:
            ContractError: There is no room.
        """
        contract = self._answered(link, descriptors.fingerprint)
        if contract is None:
            return
        self._keep(contract, descriptors)

    def learn(self, descriptors: DescriptorSet) -> None:
        """
        Keep what nobody was asked for, as of a host that has left.

        Raises:
            ContractError: There is no room.
        """
        contract = Contract(descriptors.fingerprint)
        self._keep(contract, descriptors)
        self._contracts[contract.fingerprint] = contract
        self._left[contract.fingerprint] = None

    def _keep(self, contract: Contract, descriptors: DescriptorSet) -> None:
        self._make_room(descriptors.weight_bytes)
        self._settle(contract)
        self._kept[contract.fingerprint] = contract
        self._kept_bytes += descriptors.weight_bytes
        self._numbers_given += 1
        contract.descriptors = descriptors
        contract.number = self._numbers_given
        contract.fault = ""

    def give_up(self, link: Link, fingerprint: bytes, failure: Failure, fault: str) -> None:
        """
        Take note that a link gave nothing of use.

        Args:
            link: Who was asked.
            fingerprint: For what.
            failure: In what way.
            fault: Why not.
        """
        contract = self._answered(link, fingerprint)
        if contract is None:
            return
        if failure is Failure.AWAY or failure is Failure.LIE:
            self._do_not_want(link, fingerprint)
        else:
            self._settle(contract)
        if failure is Failure.LIE and link in contract.links:
            contract.lies[link] = fault
        contract.is_broken = failure is Failure.BROKEN
        contract.fault = fault

    def _answered(self, link: Link, fingerprint: bytes) -> Contract | None:
        """Let a link be asked again; returns what it was asked for, None: nobody needs it now."""
        if self._asked.get(link) == fingerprint:
            del self._asked[link]
        contract = self._contracts.get(fingerprint)
        return contract if contract is not None and not contract.is_final else None

    def _settle(self, contract: Contract) -> None:
        contract.is_final = True
        for link in contract.links:
            self._do_not_want(link, contract.fingerprint)

    def _do_not_want(self, link: Link, fingerprint: bytes) -> None:
        wanted = self._wanted.get(link)
        if wanted is not None:
            wanted.pop(fingerprint, None)
            if not wanted:
                del self._wanted[link]

    def _make_room(self, weight_bytes: int) -> None:
        limits = self._limits
        while (
            len(self._kept) >= limits.contracts_max
            or self._kept_bytes + weight_bytes > limits.contracts_bytes_max
        ):
            if not self._left:
                raise ContractError(
                    f"the hub keeps {len(self._kept)} contracts of {self._kept_bytes} bytes, all "
                    "of them served"
                )
            fingerprint = next(iter(self._left))
            del self._left[fingerprint]
            gone = self._kept.pop(fingerprint).descriptors
            assert gone is not None
            del self._contracts[fingerprint]
            self._kept_bytes -= gone.weight_bytes

    # --- looking in ---

    def get(self, fingerprint: bytes) -> Contract | None:
        """Return what is known of a fingerprint; None: nothing."""
        return self._contracts.get(fingerprint)

    def descriptors(self, fingerprint: bytes) -> DescriptorSet | None:
        """Return what is kept by a fingerprint; None: nothing."""
        contract = self._contracts.get(fingerprint)
        return None if contract is None else contract.descriptors

    def versions(self, hosts: Iterable[Registration], service: str) -> list[Contract]:
        """Return the contracts that hosts announced for a service, the newest first."""
        found = {
            entry.fingerprint: self._contracts[entry.fingerprint]
            for host in hosts
            for entry in services_of(host.announce)
            if entry.name == service and entry.fingerprint
        }
        return sorted(found.values(), key=lambda contract: contract.number, reverse=True)

    def newest_first(self) -> Iterator[DescriptorSet]:
        """Yield the descriptors of all contracts that are served, the newest first."""
        for contract in reversed(self._kept.values()):
            if contract.links and contract.descriptors is not None:
                yield contract.descriptors


def _fingerprints(announce: pb.Announce) -> Iterable[bytes]:
    """Return what one announcement has, once each, in its order."""
    services = announce.services
    return dict.fromkeys(service.fingerprint for service in services if service.fingerprint)
