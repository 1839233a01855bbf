"""
What a hub answers of contracts: the handlers of relayrpc.v1.Hub for them.

Owns: the answers. Does not own: what is known (contracts.py, registry.py), how they are served
(management.py).
Source: protos/relayrpc/v1/hub.proto.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from relayrpc.contract.fingerprint import FINGERPRINT_BYTES
from relayrpc.endpoint.rpc_error import STATUS_BY_NUMBER
from relayrpc.errors import ContractError
from relayrpc.hub.contract_checks import CallerChecks, TooManyChecksError
from relayrpc.hub.describe import PART_BYTES
from relayrpc.hub.routing import RoutingRefusal
from relayrpc.link.call import retry_pushback
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.endpoint.context import Context
    from relayrpc.hub.contracts import HubContracts
    from relayrpc.hub.session import HubSessions


__all__ = ["ContractQueries"]


class ContractQueries:
    """The handlers."""

    def __init__(self, sessions: HubSessions, contracts: HubContracts) -> None:
        """
        Args:
            sessions: Of the hub.
            contracts: Of its hosts.
        """
        self._router = sessions.forwarder.router
        self._contracts = contracts
        self._registry = contracts.registry
        self._limits = sessions.limits
        self._checks = CallerChecks(contracts, sessions.limits)

    async def list_contracts(
        self, request: pb.ListContractsRequest, _context: Context
    ) -> AsyncIterator[pb.ListContractsResponse]:
        """Tell what there is, in parts."""
        part = pb.ListContractsResponse()
        size = 0
        for place in self._registry.history.places(request.address, request.service):
            history = self._registry.history.describe(place)
            served = self._registry.served(place)
            for version in history.versions:
                version.hosts_count = served[version.fingerprint]
            if history.versions:
                part.contracts.append(history)
                size += history.ByteSize()
            if size > PART_BYTES:
                yield part
                # Others may have waited for their turn meanwhile.
                await asyncio.sleep(0)
                part, size = pb.ListContractsResponse(), 0
        if size:
            yield part

    async def get_contract(
        self, request: pb.GetContractRequest, context: Context
    ) -> pb.GetContractResponse:
        """Give the descriptors of what is served, or of a version that was."""
        if request.fingerprint:
            return await self._get_version(request, context)
        await self.check_served(request.address, request.service, context)
        try:
            found = await self._contracts.find(
                request.address or request.service, request.service
            )
        except ContractError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return pb.GetContractResponse(fingerprint=found.fingerprint, descriptor_set=found.data)

    async def check_served(self, address: str, service: str, context: Context) -> None:
        """End a call that is about a service which nobody serves, as a call of it would end."""
        address = address or service
        if not self._router.hosts_of(address, service):
            refusal = self._router.pick(address, f"{service}/")
            assert isinstance(refusal, RoutingRefusal)
            await context.abort(STATUS_BY_NUMBER[refusal.status], refusal.details)

    async def check_contract(
        self, request: pb.CheckContractRequest, context: Context
    ) -> pb.CheckContractResponse:
        """Say whether a caller's version fits what is served."""
        if len(request.fingerprint) != FINGERPRINT_BYTES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"a fingerprint has {FINGERPRINT_BYTES} bytes",
            )
        address = request.address or request.service
        place = self._router.place_of(address, f"{request.service}/")
        # What is no fault of anybody is no failed call: it would be logged, and counted.
        if place is None:
            return pb.CheckContractResponse(answer=pb.CheckContractResponse.ANSWER_NO_HOST)
        try:
            return await self._checks.check(place, request)
        except ContractError:
            return pb.CheckContractResponse(answer=pb.CheckContractResponse.ANSWER_NO_CONTRACT)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TooManyChecksError as error:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                str(error),
                (retry_pushback(self._limits.retry_after_s),),
            )
        raise AssertionError("abort() raises")

    async def _get_version(
        self, request: pb.GetContractRequest, context: Context
    ) -> pb.GetContractResponse:
        place = (request.address or request.service, request.service)
        what = f"version {request.fingerprint.hex()} of {place[1]!r} at {place[0]!r}"
        meant = [
            version.fingerprint
            for version in self._registry.history.describe(place).versions
            if version.fingerprint.startswith(request.fingerprint)
        ]
        if len(meant) > 1:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"{len(meant)} versions are {what}"
            )
        found = await self._registry.find(meant[0]) if meant else None
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {what}")
        return pb.GetContractResponse(fingerprint=found.fingerprint, descriptor_set=found.data)
