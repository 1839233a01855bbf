"""
Logs what happens in a hub. Clock and timer are arguments.

Owns: what is logged of each thing, and which records are held back. Does not own: messages, levels
and how records look (observe/logs.py), where they go (cli/hub.py).
No metadata, message or token is ever logged, and the text of a status only where the hub wrote it.
Source: docs/reference/logs.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relayrpc.endpoint.rpc_error import status_name
from relayrpc.errors import ProtocolError
from relayrpc.hub.observer import HubObserver
from relayrpc.hub.one_way import is_lost
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED, CallOutcome
from relayrpc.observe.logs import LOG_EVENTS, log_event
from relayrpc.observe.throttle import Key, Throttle, Timer
from relayrpc.observe.tracing import SERVER_FAULTS


if TYPE_CHECKING:
    from relayrpc.carrier.base import Carrier
    from relayrpc.errors import CarrierLostError, RelayError
    from relayrpc.hub.routing import Registration
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
    from relayrpc.link.link import Link
    from relayrpc.v1 import link_pb2 as pb


__all__ = ["HubLog"]

_LOGGER: Final = logging.getLogger("relayrpc.hub")
# A host or the hub had no room: not the serving side's fault by the conventions of tracing, and
# still its operator's to see.
_FAILURES: Final = frozenset(
    {status_name(status) for status in (*SERVER_FAULTS, STATUS_RESOURCE_EXHAUSTED)}
)


class HubLog(HubObserver):
    """The log of one hub."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        logs_every_call: bool = False,
    ) -> None:
        """
        Args:
            limits: `log_records_per_s_max` and `log_keys_max` count here.
            clock: Monotonic seconds.
            call_later: As an event loop's.
            logs_every_call: Calls that ended with OK too, and none is held back.
        """
        self._logs_every_call = logs_every_call
        self._clock = clock
        self._drain_began_s = 0.0
        self._throttle = Throttle(
            passes_max=limits.log_records_per_s_max,
            keys_max=limits.log_keys_max,
            clock=clock,
            call_later=call_later,
            held_back=_held_back,
        )

    def close(self) -> None:
        """Log what was held back and is not said yet. Idempotent."""
        self._throttle.flush()

    # --- links ---

    def carrier_refused(self, carrier: Carrier, error: RelayError) -> None:
        kind = type(error).__name__
        if self._throttle.admits((("of", "carrier refused"), ("error", kind))):
            log_event(
                _LOGGER,
                "carrier refused",
                peer=carrier.peer,
                carrier=carrier.kind,
                error=kind,
                reason=str(error),
            )

    def link_opened(self, link: Link, carrier_kind: str) -> None:
        log_event(
            _LOGGER,
            "link opened",
            **_link(link),
            identity=link.peer_identity,
            carrier=carrier_kind,
            agent=link.peer_agent,
        )

    def link_resumed(self, link: Link, carrier_kind: str) -> None:
        log_event(
            _LOGGER,
            "link resumed",
            **_link(link),
            carrier=carrier_kind,
            resumes_count=link.resumed_count,
        )

    def link_parked(self, link: Link, error: CarrierLostError | None) -> None:
        reason = None if error is None else str(error)
        log_event(_LOGGER, "link parked", **_link(link), reason=reason)

    def link_leaving(self, link: Link) -> None:
        log_event(_LOGGER, "link leaving", **_link(link))

    def link_replaced(self, link: Link, older: Link) -> None:
        log_event(
            _LOGGER,
            "link replaced",
            **_link(link),
            replaced_link_id=older.link_id.hex(),
            replaced_peer=older.peer_address,
        )

    def link_ended(self, link: Link, error: RelayError | None) -> None:
        log_event(
            _LOGGER,
            "link broken" if isinstance(error, ProtocolError) else "link ended",
            **_link(link),
            error=None if error is None else type(error).__name__,
            reason=None if error is None else str(error),
        )

    # --- hosts ---

    def host_came(self, registration: Registration) -> None:
        announce = registration.announce
        log_event(
            _LOGGER,
            "host came",
            **_host(registration.link, announce),
            services=[service.name for service in announce.services],
            slots=registration.slots,
            priority=registration.priority,
        )

    def host_refused(self, link: Link, announce: pb.Announce, reason: str) -> None:
        if self._throttle.admits((("of", "host refused"),)):
            log_event(_LOGGER, "host refused", **_host(link, announce), reason=reason)

    def host_went(self, registration: Registration) -> None:
        log_event(_LOGGER, "host went", **_host(registration.link, registration.announce))

    def contract_unknown(
        self, link: Link, fingerprint: bytes, services: list[str], reason: str
    ) -> None:
        if self._throttle.admits((("of", "contract unknown"),)):
            log_event(
                _LOGGER,
                "contract unknown",
                **_link(link),
                fingerprint=fingerprint.hex(),
                services=services,
                reason=reason,
            )

    def store_failed(self, reason: str) -> None:
        if self._throttle.admits((("of", "store failed"),)):
            log_event(_LOGGER, "store failed", reason=reason)

    def host_drained(self, registration: Registration) -> None:
        log_event(
            _LOGGER,
            "host drained" if registration.is_drained else "host undrained",
            **_host(registration.link, registration.announce),
            calls_open_count=registration.calls_open_count,
        )

    # --- the hub ---

    def drain_began(self, timeout_s: float) -> None:
        self._drain_began_s = self._clock()
        log_event(_LOGGER, "hub draining", timeout_s=timeout_s)

    def drain_ended(self, calls_open_count: int, links_silent_count: int) -> None:
        duration_s = self._clock() - self._drain_began_s
        if calls_open_count or links_silent_count:
            log_event(
                _LOGGER,
                "hub drain cut short",
                duration_s=duration_s,
                calls_open_count=calls_open_count,
                links_silent_count=links_silent_count,
            )
        else:
            log_event(_LOGGER, "hub drained", duration_s=duration_s)

    # --- calls ---

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        if not end.status and not self._logs_every_call:
            return
        status = status_name(end.status)
        if is_lost(call, end):
            message = "one-way call lost"
        else:
            message = "call failed" if status in _FAILURES else "call ended"
        address = call.address
        if not _LOGGER.isEnabledFor(LOG_EVENTS[message].level) or not (
            self._logs_every_call
            or self._throttle.admits((("of", message), ("status", status), ("address", address)))
        ):
            return
        outcome = CallOutcome.from_end(end)
        link = call.link
        log_event(
            _LOGGER,
            message,
            link_id=link.link_id.hex(),  # type: ignore[attr-defined]  # a Link
            call_id=call.id,
            peer=link.peer_address,
            address=address,
            method=call.method,
            status=status,
            duration_s=duration_s,
            origin=outcome.origin,
            may_have_executed=outcome.may_have_executed,
            instance=None if registration is None else registration.link.instance,
            # A handler's may hold anything.
            details=outcome.details if outcome.origin == "hub" else None,
        )


def _link(link: Link) -> dict[str, str]:
    return {
        "link_id": link.link_id.hex(),
        "instance": link.instance,
        "peer": link.peer_address,
    }


def _host(link: Link, announce: pb.Announce) -> dict[str, str | int]:
    return {
        "link_id": link.link_id.hex(),
        "announcement_id": announce.id,
        "instance": link.instance,
        "address": announce.address,
    }


def _held_back(key: Key, count: int) -> None:
    log_event(_LOGGER, "records held back", count=count, **dict(key))
