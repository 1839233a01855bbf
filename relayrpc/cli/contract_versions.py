"""
The versions of a contract that a hub knows: which are meant, and their descriptors.

Owns: asking for them. Does not own: how they are shown (contracts.py).
Source: protos/relayrpc/v1/hub.proto, ListContracts and GetContract.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from relayrpc.cli.connection import HUB_SERVICE, run_at_hub
from relayrpc.errors import ConfigError, RelayError
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = ["Versions", "accepted", "find_history", "list_contracts"]

_T = TypeVar("_T")
_DIGITS_MIN: Final = 4


async def list_contracts(
    channel: Channel, address: str, service: str = ""
) -> pb.ListContractsResponse:
    """Ask for all at an address and below, and put the parts of the answer together."""
    ask = channel.unary_stream(
        f"/{HUB_SERVICE}/ListContracts",
        pb.ListContractsRequest.SerializeToString,
        pb.ListContractsResponse.FromString,
    )
    found = pb.ListContractsResponse()
    async for part in ask(pb.ListContractsRequest(address=address, service=service)):
        found.MergeFrom(part)
    return found


async def find_history(service: str, channel: Channel, address: str) -> pb.ContractHistory:
    """
    Find the versions of a service: at an address, or without one wherever there is one place.

    Raises:
        RelayError: There are none, or several places; the text says where.
    """
    known = (await list_contracts(channel, "", service)).contracts
    found = [history for history in known if history.address == address or not address]
    if len(found) == 1:
        return found[0]
    where = ", ".join(sorted(history.address for history in found or known))
    if found:
        raise RelayError(f"{service!r} is known at {where}: name one of them in the URL")
    at = f" at {address!r}" if address else ""
    raise RelayError(
        f"the hub knows no contract of {service!r}{at}" + (f", but at {where}" if where else "")
    )


def accepted(history: pb.ContractHistory) -> list[pb.ContractVersion]:
    """Return the versions that hosts may serve, the newest last."""
    return [
        version
        for version in history.versions
        if version.verdict != pb.CONTRACT_VERDICT_REFUSED
    ]


class Versions:
    """
    The versions of one contract, while the hub can be asked.

    Attributes:
        history: All of them.
    """

    def __init__(self, channel: Channel, history: pb.ContractHistory) -> None:
        self._channel = channel
        self.history = history

    @classmethod
    def run(
        cls,
        url: str,
        service: str,
        work: Callable[[Versions], Awaitable[_T]],
        *,
        tls_ca: str | None,
    ) -> _T:
        """
        Run what needs the versions of a contract.

        Raises:
            ConfigError: The URL cannot be used.
            RelayError: The hub cannot be reached, or does not know the contract.
        """

        async def at_hub(channel: Channel, address: str) -> _T:
            return await work(cls(channel, await find_history(service, channel, address)))

        return run_at_hub(url, at_hub, tls_ca=tls_ca)

    def pick(self, digits: str) -> pb.ContractVersion:
        """
        Return the version whose fingerprint begins so; without digits the newest one that hosts may
        serve.

        Raises:
            ConfigError: These are no digits of a fingerprint.
            RelayError: There is none, or several.
        """
        versions = self.history.versions if digits else accepted(self.history)[-1:]
        if digits and (len(digits) < _DIGITS_MIN or set(digits.lower()) - set("0123456789abcdef")):
            raise ConfigError(f"{digits!r} is no version: write its first digits, as 9f86d081")
        found = [each for each in versions if each.fingerprint.hex().startswith(digits.lower())]
        if len(found) != 1:
            what = f"version {digits}" if digits else "version that hosts may serve"
            count = f"{len(found)} of them" if found else "none"
            raise RelayError(
                f"there is no one {what} of {self.history.service!r} at {self.history.address!r}: "
                f"{count}"
            )
        return found[0]

    async def get_picked(self, digits: str) -> bytes:
        """Return the descriptor set of the version that `pick` returns; raises as it does."""
        return await self.get(self.pick(digits).fingerprint)

    async def get(self, fingerprint: bytes) -> bytes:
        """Return the descriptor set of a version."""
        ask = self._channel.unary_unary(
            f"/{HUB_SERVICE}/GetContract",
            pb.GetContractRequest.SerializeToString,
            pb.GetContractResponse.FromString,
        )
        request = pb.GetContractRequest(
            address=self.history.address, service=self.history.service, fingerprint=fingerprint
        )
        answer: pb.GetContractResponse = await ask(request)
        return answer.descriptor_set
