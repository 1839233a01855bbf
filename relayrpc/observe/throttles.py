"""
OpenTelemetry metrics of a host's throttles, where the process has an SDK; else nothing.

Owns: the instruments, one of each for the process, and what they say. Does not own: the counts
(endpoint/throttle.py).
Source: docs/reference/instances.md "Throttles".
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from relayrpc import __version__


if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation


__all__ = ["ThrottleReadings", "observe_throttles"]

_Counts = Mapping[Any, int]


class ThrottleReadings(Protocol):
    """What is read of a throttle."""

    @property
    def counts(self) -> _Counts:
        """How many of each kind there are."""

    @property
    def waiting_counts(self) -> _Counts:
        """How many wait."""

    @property
    def bounds(self) -> _Counts:
        """How many there may be."""


# Throttle -> the services that it bounds together. Read by threads of the SDK.
_observed: Final[weakref.WeakKeyDictionary[ThrottleReadings, frozenset[str]]] = (
    weakref.WeakKeyDictionary()
)
# Providers that have the instruments.
_providers: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_INSTRUMENTS: Final[tuple[tuple[str, str, Callable[[ThrottleReadings], _Counts]], ...]] = (
    ("used", "What a service has at once", lambda throttle: throttle.counts),
    ("waiting", "What waits for a place", lambda throttle: throttle.waiting_counts),
    ("limit", "What it may have at once", lambda throttle: throttle.bounds),
)


def observe_throttles(throttles: Mapping[str, ThrottleReadings]) -> None:
    """
    Have the throttles of services read whenever metrics are.

    Whoever configured an SDK has imported the API: it is not imported for the question.
    """
    if not throttles or "opentelemetry.metrics" not in sys.modules:
        return
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    if isinstance(provider, metrics.NoOpMeterProvider) or "Proxy" in type(provider).__name__:
        return
    for service, throttle in throttles.items():
        _observed[throttle] = _observed.get(throttle, frozenset()) | {service}
    if provider in _providers:
        return
    _providers.add(provider)
    meter = provider.get_meter("relayrpc", __version__)
    for name, description, read in _INSTRUMENTS:
        meter.create_observable_gauge(
            f"relayrpc.host.throttle.{name}", [_reader(read)], description=description
        )


def _reader(
    read: Callable[[ThrottleReadings], _Counts],
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation

    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for throttle, services in list(_observed.items()):
            for kind, count in read(throttle).items():
                for service in sorted(services):
                    yield Observation(count, {"rpc.service": service, "relayrpc.kind": kind})

    return observe
