"""
Whether a backend can take calls: by its grpc.health.v1 service where it has one, else by whether it
can be connected to.

Owns: that one answer, and why it is no. Does not own: what follows from it (exposure.py).
Source: GRPC Health Checking Protocol; gRPC connectivity semantics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.agent.backend import Backend
    from relayrpc.limits import Limits


__all__ = ["watch_health"]

_LOGGER: Final = logging.getLogger("relayrpc.agent")
_METHOD: Final = "/grpc.health.v1.Health/Watch"
_BACKOFF_FACTOR: Final = 1.6
_State = grpc.ChannelConnectivity


async def watch_health(
    channel: grpc.aio.Channel, backend: Backend, limits: Limits
) -> AsyncIterator[str]:
    """
    Yield how a backend fares, for ever: "" when it can take calls, else why it cannot.

    Args:
        channel: To it.
        backend: Its settings.
        limits: `backoff_s_min` and `backoff_s_max` count here.
    """
    watch = channel.unary_stream(
        _METHOD, pb.HealthCheckRequest.SerializeToString, pb.HealthCheckResponse.FromString
    )
    backoff_s = 0.0
    while True:
        async for fault in _connectivity(channel, backend):
            if not fault:
                break
            yield fault
        try:
            async for response in watch(pb.HealthCheckRequest(service=backend.health)):
                backoff_s = 0.0
                yield _fault(response.status, backend.health)
            fault = "its health service ended the watch"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                break
            fault = f"its health service says {error.code().name}: {error.details()}"
        if backoff_s:
            # Not at the first end: a server may close connections of a certain age.
            yield fault
            await asyncio.sleep(backoff_s)
        backoff_s = min(
            max(backoff_s * _BACKOFF_FACTOR, limits.backoff_s_min), limits.backoff_s_max
        )
    _LOGGER.info("%s has no health service; whether it can be reached counts", backend)
    async for fault in _connectivity(channel, backend):
        yield fault


def _fault(status: int, service: str) -> str:
    # A server need not know of a health as a whole.
    if status == pb.HealthCheckResponse.SERVING or (
        status == pb.HealthCheckResponse.SERVICE_UNKNOWN and not service
    ):
        return ""
    whose = f"the health of {service}" if service else "its health"
    return f"{whose} is {pb.HealthCheckResponse.ServingStatus.Name(status)}"


async def _connectivity(channel: grpc.aio.Channel, backend: Backend) -> AsyncIterator[str]:
    """Yield how it fares by whether it can be connected to, "" when it is connected."""
    while True:
        state = channel.get_state(try_to_connect=True)
        if state is _State.READY:
            yield ""
        elif state is _State.TRANSIENT_FAILURE:
            yield await backend.find_fault() or "cannot connect"
        await channel.wait_for_state_change(state)
