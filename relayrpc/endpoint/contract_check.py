"""
Whether the contracts that a channel's caller was built with fit those that hosts serve: asked of
the hub once for each address and service, before the first call.

Owns: what was asked, and what is said to calls. Does not own: comparing (the hub's), which calls
wait (call_opener.py).
Source: docs/reference/contracts.md; protos/relayrpc/v1/hub.proto, CheckContract.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.descriptor_pool import Default

from relayrpc.contract.descriptors import collect, shown_few
from relayrpc.contract.fingerprint import fingerprint_of
from relayrpc.endpoint.rpc_error import RpcError
from relayrpc.errors import ContractError
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.channel import Channel


__all__ = ["ContractChecks", "ContractMismatchError"]

_LOGGER: Final = logging.getLogger("relayrpc")
_METHOD: Final = "/relayrpc.v1.Hub/CheckContract"
_HUB_ADDRESS: Final = "$hub"
_RESERVED: Final = "$"
# Files whose descriptors are kept, as channels come and go.
_COLLECTED_MAX: Final = 64
_Answer = pb.CheckContractResponse
# What a caller waits for: where, what, and whether for a hub and a host, too.
_Key = tuple[str, str, bool]


class ContractMismatchError(Exception):
    """Calls of a service would be misread: what they end with, not executed."""


class ContractChecks:
    """
    The checks of one channel.

    Attributes:
        methods: "pkg.Service/Method" of those whose contract generated code has here.
    """

    def __init__(self, channel: Channel, forgotten: Callable[[str, str], None]) -> None:
        """
        Args:
            channel: Whose calls wait.
            forgotten: Told an address and a service that have to be asked about again.
        """
        self._channel = channel
        self._told_forgotten = forgotten
        self.methods: set[str] = set()
        # Addresses and services that need not be asked about, the oldest first.
        self._settled: dict[tuple[str, str], None] = {}
        # Completed when the hub has answered: None, or why no call may be made.
        self._asking: dict[_Key, asyncio.Future[str | None]] = {}
        # Calls that wait for it.
        self._waiting: dict[tuple[str, str], int] = {}
        # To ask again where the hub could not say.
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._hub: Channel | None = None

    def close(self) -> None:
        """Ask no more. Idempotent."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def learn(self, method: str) -> bool:
        """Note "pkg.Service/Method", of which there will be calls; False: it is never checked."""
        if _file_of(method.partition("/")[0]):
            self.methods.add(method)
        return method in self.methods

    def is_due(self, method: str, address: str) -> bool:
        """Say whether a call of "pkg.Service/Method" has to wait for `check()`."""
        if method not in self.methods or address.startswith(_RESERVED):
            return False
        place = (address, method.partition("/")[0])
        # Those that waited go first.
        return place not in self._settled or place in self._waiting

    async def check(self, method: str, address: str, *, wait_for_ready: bool) -> None:
        """
        Wait until it is known whether calls may be made.

        Args:
            method: "pkg.Service/Method".
            address: Where it is called; empty: at its default address.
            wait_for_ready: The call waits for a hub.

        Raises:
            ContractMismatchError: They may not.
        """
        service = method.partition("/")[0]
        place = (address, service)
        self._waiting[place] = self._waiting.get(place, 0) + 1
        try:
            fault = await self._outcome((address, service, wait_for_ready))
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]
        if fault:
            raise ContractMismatchError(fault)

    async def _outcome(self, key: _Key) -> str | None:
        while True:
            if key[:2] in self._settled:
                return None
            asking = self._asking.get(key)
            if asking is None:
                return await self._lead(key)
            outcome = await asyncio.shield(asking)
            if outcome is not None:
                return outcome or None

    async def _lead(self, key: _Key) -> str | None:
        """Ask, for all that wait for the same; whoever is cancelled leaves it to the next."""
        asking: asyncio.Future[str | None] = self._channel.loop.create_future()
        self._asking[key] = asking
        outcome = None
        try:
            outcome = await self._ask(*key)
        finally:
            del self._asking[key]
            asking.set_result(outcome)
        return outcome or None

    async def _ask(self, address: str, service: str, wait_for_ready: bool) -> str:
        """Ask the hub; returns why no call may be made, empty: it may."""
        try:
            data = _collected(_file_of(service))
        except ContractError as error:
            _LOGGER.info("the contract of %s was not compared: %s", service, error)
            self._settle((address, service), is_final=True)
            return ""
        request = pb.CheckContractRequest(
            address=address, service=service, fingerprint=fingerprint_of(data)
        )
        try:
            answer = await self._call(request, wait_for_ready)
            if answer.answer == _Answer.ANSWER_SEND_DESCRIPTORS:
                request.descriptor_set = data
                answer = await self._call(request, wait_for_ready)
        except RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                # The call is told the same, or is not.
                return ""
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                _LOGGER.info("the contract of %s was not compared: %s", service, error.details())
            self._settle((address, service), is_final=False)
            return ""
        if answer.answer == _Answer.ANSWER_INCOMPATIBLE:
            return _mismatch(address, service, request.fingerprint, answer)
        if answer.answer != _Answer.ANSWER_NO_HOST:
            is_known = answer.answer in (_Answer.ANSWER_SAME, _Answer.ANSWER_COMPATIBLE)
            self._settle((address, service), is_final=is_known)
        return ""

    async def _call(
        self, request: pb.CheckContractRequest, wait_for_ready: bool
    ) -> pb.CheckContractResponse:
        if self._hub is None:
            # Which has checks itself.
            from relayrpc.endpoint.channel import Channel

            # No interceptor, credentials or span of the program's calls is for this one.
            self._hub = Channel(
                self._channel.live, address=_HUB_ADDRESS, owns_link=False, is_traced=False
            )
        ask = self._hub.unary_unary(
            _METHOD,
            pb.CheckContractRequest.SerializeToString,
            pb.CheckContractResponse.FromString,
        )
        answer: pb.CheckContractResponse = await ask(request, wait_for_ready=wait_for_ready)
        return answer

    def _settle(self, place: tuple[str, str], *, is_final: bool) -> None:
        limits = self._channel.limits
        self._settled[place] = None
        if len(self._settled) > limits.checked_services_max:
            self._forget(next(iter(self._settled)))
        # Two may have asked, one of them for a hub that it would wait for.
        self._stop_timer(place)
        if not is_final:
            self._timers[place] = self._channel.loop.call_later(
                limits.contract_recheck_s, self._forget, place
            )

    def _forget(self, place: tuple[str, str]) -> None:
        self._settled.pop(place, None)
        self._stop_timer(place)
        self._told_forgotten(*place)

    def _stop_timer(self, place: tuple[str, str]) -> None:
        timer = self._timers.pop(place, None)
        if timer is not None:
            timer.cancel()


def _file_of(service: str) -> str:
    """Return the file that defines a service, as generated code has it; empty: there is none."""
    try:
        return str(Default().FindServiceByName(service).file.name)
    except KeyError:
        return ""


@functools.lru_cache(maxsize=_COLLECTED_MAX)
def _collected(file: str) -> bytes:
    return collect(Default().FindFileByName(file))


def _mismatch(
    address: str, service: str, fingerprint: bytes, answer: pb.CheckContractResponse
) -> str:
    told = [f"{each.file}: {each.text} [{each.rule}]" for each in answer.differences]
    where = f" at {address!r}" if address else ""
    return (
        f"this caller was built with version {fingerprint.hex()[:12]} of {service!r}, and hosts"
        f"{where} serve version {answer.fingerprint.hex()[:12]}, which breaks it: {shown_few(told)}"
    )
