"""
One span for every call that passes a hub, between its caller's and its host's.

Owns: when it begins and ends. Does not own: what it says (observe/tracing.py). Added to a hub only
where an SDK is configured.
Source: docs/reference/tracing.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relayrpc.endpoint.contracts import HOST_ADDRESS
from relayrpc.hub.observer import HubObserver
from relayrpc.link.call import CallOutcome


if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from relayrpc.hub.routing import Registration
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.observe.tracing import Tracing
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["HubTracing"]


class HubTracing(HubObserver):
    """Makes the spans of one hub."""

    def __init__(self, tracing: Tracing, *, limits: Limits) -> None:
        self._tracing = tracing
        self._limits = limits
        # By the leg that a call came on, while it is open.
        self._spans: dict[Call, Span] = {}

    def call_opened(self, call: Call, opening: pb.Open) -> None:
        if call.address == HOST_ADDRESS:
            # The hub asks a host what it serves: nobody's call.
            return
        tracing = self._tracing
        pairs = tuple([(entry.key, entry.value) for entry in opening.metadata])
        span = tracing.start_hub_span(call.method, call.address, pairs)
        self._spans[call] = span
        carried = tracing.carry(span, pairs, limit_bytes=self._limits.metadata_bytes_max)
        del opening.metadata[:]
        for key, value in carried:
            opening.metadata.add(key=key, value=value)

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        span = self._spans.pop(call, None)
        if span is None:
            # It has none, or was open before spans were made.
            return
        outcome = CallOutcome.from_end(end)
        self._tracing.end_span(
            span,
            status=outcome.status,
            origin=outcome.origin,
            may_have_executed=outcome.may_have_executed,
            instance="" if registration is None else registration.link.instance,
            details=outcome.details,
        )
