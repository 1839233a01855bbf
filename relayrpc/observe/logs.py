"""
What a hub logs: its events in one table, and how records are written, as text or as JSON.

Owns: messages, levels, fields and meaning of the events; what a record looks like; that nothing
which peers wrote can look like more than the one field it is in. Does not own: what happens when
(hub/log.py), what is held back (throttle.py).
Source: docs/reference/logs.md, whose table is made from the one here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal


__all__ = [
    "LOG_EVENTS",
    "EventText",
    "JSONFormatter",
    "LogEvent",
    "LogForm",
    "LogLevel",
    "TextFormatter",
    "configure_logging",
    "log_event",
    "one_line",
]

LogForm = Literal["text", "json"]
"""How records are written."""
LogLevel = Literal["debug", "info", "warning", "error"]
"""The least that is written."""
Value = str | int | float | list[str] | None

# Of text in a field, and of entries in a list; the rest is cut off.
_CHARACTERS_MAX: Final = 512
_ENTRIES_MAX: Final = 32
# What stands in a line without quotes.
_BARE: Final = re.compile(r"[A-Za-z0-9_.:/$%+,~-]+")


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of the table."""

    message: str
    level: int
    fields: tuple[str, ...]
    """In the order in which they are written."""
    meaning: str


_LINK: Final = ("link_id", "instance", "peer")
_LINK_END: Final = (*_LINK, "error", "reason")
_HOST: Final = ("link_id", "announcement_id", "instance", "address")
_CALL: Final = (
    "link_id",
    "call_id",
    "peer",
    "address",
    "method",
    "status",
    "duration_s",
    "origin",
    "may_have_executed",
    "instance",
    "details",
)
_TABLE: Final = (
    LogEvent(
        "link opened",
        logging.INFO,
        (*_LINK, "identity", "carrier", "agent"),
        "A host or caller opened a link; with an identity that begins with `$`, a part of the hub.",
    ),
    LogEvent(
        "link resumed",
        logging.INFO,
        (*_LINK, "carrier", "resumes_count"),
        "A link goes on over a new carrier, because it lost one or because it moved.",
    ),
    LogEvent(
        "link parked",
        logging.INFO,
        (*_LINK, "reason"),
        "A link lost its carrier and may be back; without a reason, its peer closed the carrier.",
    ),
    LogEvent("link leaving", logging.INFO, _LINK, "The peer of a link takes no new calls."),
    LogEvent(
        "link replaced",
        logging.INFO,
        (*_LINK, "replaced_link_id", "replaced_peer"),
        "A takeover: the link takes the place of an older one of its instance, which ends.",
    ),
    LogEvent(
        "link ended",
        logging.INFO,
        _LINK_END,
        "A link is over: closed in good order, or for the error that is named.",
    ),
    LogEvent(
        "link broken",
        logging.WARNING,
        _LINK_END,
        "A link is over because its peer broke the protocol or overran a bound.",
    ),
    LogEvent(
        "carrier refused",
        logging.WARNING,
        ("peer", "carrier", "error", "reason"),
        "A connection may neither open a link nor resume one.",
    ),
    LogEvent(
        "host came",
        logging.INFO,
        (*_HOST, "services", "slots", "priority"),
        "A host listens.",
    ),
    LogEvent(
        "host refused",
        logging.WARNING,
        (*_HOST, "reason"),
        "A host may not listen as it announced.",
    ),
    LogEvent("host went", logging.INFO, _HOST, "A host listens no more."),
    LogEvent(
        "host drained",
        logging.INFO,
        (*_HOST, "calls_open_count"),
        "An operator wants a host to get no new calls.",
    ),
    LogEvent(
        "host undrained", logging.INFO, (*_HOST, "calls_open_count"), "... and took that back."
    ),
    LogEvent(
        "descriptors raised",
        logging.INFO,
        ("descriptors", "descriptors_before"),
        "`relayrpc hub` has the system allow it more file descriptors; each link is one.",
    ),
    LogEvent(
        "links limited",
        logging.WARNING,
        ("links_max", "handshakes_open_max", "descriptors"),
        "There are too few file descriptors for the limits: these are taken instead.",
    ),
    LogEvent(
        "limits add up",
        logging.INFO,
        ("memory", "link_memory", "links_max", "descriptors"),
        "What peers can make `relayrpc hub` hold at most, and one link of that; "
        "`--check-config` shows the sum.",
    ),
    LogEvent(
        "hub draining",
        logging.INFO,
        ("timeout_s",),
        "The hub stops; running calls may go on for so long.",
    ),
    LogEvent("hub drained", logging.INFO, ("duration_s",), "Every call is over, every peer told."),
    LogEvent(
        "hub drain cut short",
        logging.WARNING,
        ("duration_s", "calls_open_count", "links_silent_count"),
        "The time for draining is over, or a second signal came: so many calls are cut, so many "
        "peers without calls have not answered.",
    ),
    LogEvent(
        "call ended",
        logging.INFO,
        _CALL,
        "A call is over: with another status than those below, or, where every call is asked for, "
        "with OK.",
    ),
    LogEvent(
        "call failed",
        logging.WARNING,
        _CALL,
        "A call ended with a status that the serving side or the hub has to answer for: UNKNOWN, "
        "DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.",
    ),
    LogEvent(
        "one-way call lost",
        logging.WARNING,
        _CALL,
        "A one-way call that the hub held did not run, or nobody knows whether it did: instead of "
        "the two above.",
    ),
    LogEvent(
        "contract unknown",
        logging.WARNING,
        (*_LINK, "fingerprint", "services", "reason"),
        "Descriptors that a host announced are not to be had, cannot be used, or do not define "
        "what they were announced for. Where the host gave none it serves all the same, and "
        "reflection and `relayrpc call` do not know the contract; else `host refused` follows.",
    ),
    LogEvent(
        "store chosen",
        logging.INFO,
        ("store",),
        "In which file `relayrpc hub` remembers contracts; `memory`: in none, and it forgets them "
        "with its end.",
    ),
    LogEvent(
        "store failed",
        logging.WARNING,
        ("reason",),
        "Something could not be stored, or read; the hub goes on without.",
    ),
    LogEvent(
        "records held back",
        logging.WARNING,
        ("count", "of", "status", "address", "error"),
        "So many records of one kind were left out within a second.",
    ),
)
LOG_EVENTS: Final[Mapping[str, LogEvent]] = MappingProxyType(
    {event.message: event for event in _TABLE}
)
"""Every event by its message."""


class EventText:
    """
    What one record says. As text it is the event's message and " name=value" for each field, where
    a value that could be taken for anything else is a JSON string.
    """

    __slots__ = ("event", "values")

    def __init__(self, event: LogEvent, values: Mapping[str, Value]) -> None:
        self.event = event
        self.values = values

    def __str__(self) -> str:
        fields = [f" {name}={_text(value)}" for name, value in self.values.items()]
        return f"{self.event.message}{''.join(fields)}"


def log_event(logger: logging.Logger, message: str, **values: Value) -> None:
    """
    Log an event of the table.

    Any handler shows its fields: they are a part of the message as text, and attributes of the
    record for handlers that look there.

    Args:
        logger: Where.
        message: Of the table.
        values: Its fields, in the order of the table; those that are None or empty are left out.
    """
    event = LOG_EVENTS[message]
    if logger.isEnabledFor(event.level):
        kept = {name: _cut(value) for name, value in values.items() if value not in (None, "", [])}
        logger.log(event.level, "%s", EventText(event, kept), extra=kept, stacklevel=2)


class TextFormatter(logging.Formatter):
    """
    One line a record: time, level, logger, message with its fields.

    The lines of a traceback are indented, so that what peers wrote never begins one.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n    ".join([line, *map(one_line, trace)])
        return line


class JSONFormatter(logging.Formatter):
    """
    One JSON object a record: `time` (RFC 3339, UTC), `level`, `logger`, `message`, the event's
    fields, and `exception` with a traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Value] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
        }
        text = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(text, EventText):
            line["message"] = text.event.message
            line |= text.values
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(*, form: LogForm, level: LogLevel) -> None:
    """
    Have this process write its log on standard error; to be called once.

    Args:
        form: How.
        level: The least that is written of the relay's own; of other libraries it is warnings.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("relayrpc").setLevel(level.upper())


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(value: Value) -> Value:
    if isinstance(value, str):
        return value if len(value) <= _CHARACTERS_MAX else f"{value[:_CHARACTERS_MAX]}..."
    if isinstance(value, list):
        return [f"{_cut(entry)}" for entry in value[:_ENTRIES_MAX]]
    return round(value, 6) if isinstance(value, float) else value


def _text(value: Value) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value, separators=(",", ":"))


def one_line(text: str) -> str:
    """Escape what could end a line or steer a terminal; a text without such is left as it is."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
