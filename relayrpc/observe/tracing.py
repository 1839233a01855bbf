"""
OpenTelemetry spans of calls, where the process has an SDK; else nothing.

Owns: whether there is an SDK, what a span is called and says, its context among a call's metadata.
Does not own: when spans begin and end (endpoint/channel.py, endpoint/dispatch.py, hub/tracing.py).
Source: OpenTelemetry's semantic conventions for RPC; W3C Trace Context; docs/reference/tracing.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from relayrpc import __version__


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer


__all__ = ["SERVER_FAULTS", "Tracing", "find_tracing"]

Pairs = tuple[tuple[str, bytes], ...]

# Counted for every entry of metadata beside its key and value, as gRPC counts.
_ENTRY_BYTES: Final = 32
SERVER_FAULTS: Final = frozenset({2, 4, 12, 13, 14, 15})
"""
Statuses that are the serving side's fault, by the conventions: UNKNOWN, DEADLINE_EXCEEDED,
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
"""


def find_tracing() -> Tracing | None:
    """
    Return what makes spans; None where no SDK is configured.

    Whoever configured one has imported the API: it is not imported for the question.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    tracer = provider.get_tracer("relayrpc", __version__)
    return None if isinstance(tracer, trace.NoOpTracer) else Tracing(tracer)


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, tracer: Tracer) -> None:
        # Imported where there is an SDK only.
        from opentelemetry import propagate, trace
        from opentelemetry.context import Context

        self._tracer = tracer
        self._no_context = Context()
        self._trace = trace
        self._propagate = propagate

    def start_caller_span(self, method: str, address: str) -> Span:
        """Begin the span of a call that is made here, below the current one; kind CLIENT."""
        return self._start(method, address, self._trace.SpanKind.CLIENT, None)

    def start_hub_span(
        self, method: str, address: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> Span:
        """Begin the span of a call that passes, below the one its metadata names; kind SERVER."""
        return self._start(method, address, self._trace.SpanKind.SERVER, self._extract(metadata))

    def start_host_span(
        self, method: str, address: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> Span:
        """Begin the span of a handler, below the one its metadata names; kind SERVER."""
        return self._start(method, address, self._trace.SpanKind.SERVER, self._extract(metadata))

    def attached(self, span: Span) -> AbstractContextManager[Span]:
        """Make a span the current one; what escapes is not recorded, and the span goes on."""
        return self._trace.use_span(
            span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )

    def record_exception(self, error: BaseException) -> None:
        """Note an exception on the current span."""
        self._trace.get_current_span().record_exception(error)

    def carry(self, span: Span, pairs: Pairs, *, limit_bytes: int) -> Pairs:
        """
        Return metadata that names a span as the parent of what comes next.

        Args:
            span: That span.
            pairs: The call's metadata; what names another parent is replaced.
            limit_bytes: Where the result would be over it, counting 32 an entry, `pairs` are
                returned: tracing never fails a call.
        """
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span))
        own = {key.lower(): value.encode("ascii", "replace") for key, value in carrier.items()}
        carried = (*[pair for pair in pairs if pair[0] not in own], *own.items())
        size = sum(len(key) + len(value) + _ENTRY_BYTES for key, value in carried)
        return carried if size <= limit_bytes else pairs

    def end_span(
        self,
        span: Span,
        *,
        status: int,
        is_caller: bool = False,
        origin: str = "",
        may_have_executed: bool | None = None,
        instance: str = "",
        details: str = "",
    ) -> None:
        """
        End a span.

        Args:
            span: The span.
            status: gRPC's number of how the call ended.
            is_caller: Every status but OK is an error; else those that the serving side is to blame
                for.
            origin: Who ended it; empty: not known here.
            may_have_executed: What the caller is told; None: not known here.
            instance: The host's; empty: not known here, or none.
            details: Of the status. Kept where the relay wrote them: a handler's may hold anything.
        """
        if span.is_recording():
            span.set_attribute("rpc.grpc.status_code", status)
            if origin:
                span.set_attribute("relayrpc.origin", origin)
            if may_have_executed is not None:
                span.set_attribute("relayrpc.may_have_executed", may_have_executed)
            if instance:
                span.set_attribute("relayrpc.instance", instance)
            if status and (is_caller or status in SERVER_FAULTS):
                is_ours = origin in ("caller", "hub")
                span.set_status(self._trace.StatusCode.ERROR, details if is_ours else None)
        span.end()

    def _start(self, method: str, address: str, kind: SpanKind, parent: Context | None) -> Span:
        service, _, name = method.partition("/")
        return self._tracer.start_span(
            method,
            context=parent,
            kind=kind,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "relayrpc.address": address or service,
            },
        )

    def _extract(self, metadata: Iterable[tuple[str, str | bytes]]) -> Context:
        carrier = {
            key: value.decode("ascii", "replace") if isinstance(value, bytes) else value
            for key, value in metadata
        }
        # Not below whatever happens to be current here.
        return self._propagate.extract(carrier, context=self._no_context)
