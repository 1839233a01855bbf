"""What a hub in this process logs, as events with their fields."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from relayrpc.observe.logs import EventText


__all__ = ["LoggedEvent", "hub_records"]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One record."""

    message: str
    level: int
    fields: dict[str, Any]
    """In the order in which they are written."""


class _Keeper(logging.Handler):
    def __init__(self, events: list[LoggedEvent]) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, tuple), record
        (text,) = record.args
        assert isinstance(text, EventText), record
        self._events.append(LoggedEvent(text.event.message, record.levelno, dict(text.values)))


@contextlib.contextmanager
def hub_records() -> Iterator[list[LoggedEvent]]:
    """Keep everything that hubs log from INFO on, in a list that grows."""
    logger = logging.getLogger("relayrpc.hub")
    events: list[LoggedEvent] = []
    keeper = _Keeper(events)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(keeper)
    try:
        yield events
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(level)
