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
from relayrpc.hub.observer import HubObserver
from relayrpc.link.call import STATUS_RESOURCE_EXHAUSTED, CallOutcome
from relayrpc.observe.logs import LOG_EVENTS, log_event
from relayrpc.observe.throttle import Key, Throttle, Timer
from relayrpc.observe.tracing import SERVER_FAULTS


if TYPE_CHECKING:
    from relayrpc.hub.routing import Registration
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call
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

    def call_ended(
        self, call: Call, end: pb.End, registration: Registration | None, duration_s: float
    ) -> None:
        if not end.status and not self._logs_every_call:
            return
        status = status_name(end.status)
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


def _held_back(key: Key, count: int) -> None:
    log_event(_LOGGER, "records held back", count=count, **dict(key))
