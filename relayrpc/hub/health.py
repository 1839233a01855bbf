"""
grpc.health.v1 on the hub's gRPC port: of the hub itself, and of the services behind it.

Owns: what is said of whom, and those who watch. Does not own: the port (grpc_door.py), readiness
(server.py).
Source: GRPC Health Checking Protocol; grpc/health/v1/health.proto; docs/reference/metrics.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as health

from relayrpc.hub.grpc_door import named_address
from relayrpc.hub.observer import HubObserver
from relayrpc.link.call import retry_pushback


if TYPE_CHECKING:
    from relayrpc.errors import CarrierLostError
    from relayrpc.hub.routing import Registration
    from relayrpc.hub.session import HubSessions
    from relayrpc.link.link import Link


__all__ = ["HubHealth"]

_SERVICE: Final = "grpc.health.v1.Health"
# What the hub answers for itself; "" is a server as a whole.
_OWN: Final = ("", "relayrpc.v1.Link")
_SERVING: Final = health.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health.HealthCheckResponse.SERVICE_UNKNOWN


class HubHealth(HubObserver, grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """
    The health service of one hub; to be added to its observers.

    Any name but the hub's own is a service: SERVING while a host that takes calls listens for it,
    at the address in the metadata `relay-address` or else at the service's default address. Where
    hosts serve grpc.health.v1 themselves at the address that is named, they answer.
    """

    def __init__(self, sessions: HubSessions, *, is_ready: Callable[[], bool]) -> None:
        """
        Args:
            sessions: Of the hub. Its limits' `health_watches_max` and `retry_after_s` count here.
            is_ready: Whether the hub itself takes links and calls; `changed()` is to be called when
                that changes.
        """
        self._router = sessions.forwarder.router
        self._limits = sessions.limits
        self._is_ready = is_ready
        self._watches_count = 0
        self._is_closed = False
        # Set at the next change, and replaced then.
        self._change = asyncio.Event()
        self._methods = {
            f"/{_SERVICE}/Check": grpc.unary_unary_rpc_method_handler(
                self._check,
                request_deserializer=health.HealthCheckRequest.FromString,
                response_serializer=health.HealthCheckResponse.SerializeToString,
            ),
            f"/{_SERVICE}/List": grpc.unary_unary_rpc_method_handler(
                self._list,
                request_deserializer=health.HealthListRequest.FromString,
                response_serializer=health.HealthListResponse.SerializeToString,
            ),
            f"/{_SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                request_deserializer=health.HealthCheckRequest.FromString,
                response_serializer=health.HealthCheckResponse.SerializeToString,
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what serves a method; None: it is not the hub's to serve."""
        method = self._methods.get(details.method)
        if method is None:
            return None
        address = named_address(details.invocation_metadata)
        if address and self._router.place_of(address, details.method.removeprefix("/")):
            return None
        return method

    def changed(self) -> None:
        """Have those who watch look again."""
        self._change.set()
        self._change = asyncio.Event()

    def close(self) -> None:
        """End the streams of those who watch. Idempotent."""
        self._is_closed = True
        self.changed()

    # --- what may change an answer ---

    def link_resumed(self, link: Link, carrier_kind: str) -> None:
        self.changed()

    def link_parked(self, link: Link, error: CarrierLostError | None) -> None:
        self.changed()

    def link_leaving(self, link: Link) -> None:
        self.changed()

    def host_came(self, registration: Registration) -> None:
        self.changed()

    def host_went(self, registration: Registration) -> None:
        self.changed()

    def host_drained(self, registration: Registration) -> None:
        self.changed()

    # --- the service ---

    async def _check(
        self, request: health.HealthCheckRequest, context: Any
    ) -> health.HealthCheckResponse:
        status = self._status(request.service, context)
        if status == _UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no host listens for {request.service!r}"
            )
        return health.HealthCheckResponse(status=status)

    async def _list(
        self, _request: health.HealthListRequest, context: Any
    ) -> health.HealthListResponse:
        response = health.HealthListResponse()
        for name in _OWN:
            response.statuses[name].status = self._status(name, context)
        return response

    async def _watch(
        self, request: health.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health.HealthCheckResponse]:
        watches_max = self._limits.health_watches_max
        if self._watches_count >= watches_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{watches_max} watch the health of this hub already",
                (retry_pushback(self._limits.retry_after_s),),
            )
        self._watches_count += 1
        try:
            last = None
            while not self._is_closed:
                change = self._change
                status = self._status(request.service, context)
                if status != last:
                    last = status
                    yield health.HealthCheckResponse(status=status)
                await change.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the hub stopped")
        finally:
            self._watches_count -= 1

    def _status(self, service: str, context: Any) -> health.HealthCheckResponse.ServingStatus:
        if service in _OWN:
            return _SERVING if self._is_ready() else _NOT_SERVING
        address = named_address(context.invocation_metadata()) or service
        is_served = self._router.is_served(address, service)
        if is_served is None:
            return _UNKNOWN
        return _SERVING if is_served and self._is_ready() else _NOT_SERVING
