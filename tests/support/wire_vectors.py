"""
Runs one wire vector, a list of steps from tests/conformance/vectors, against a real Link.

Owns: the format of the steps. Does not own: what the steps say. Knows nothing of the wire that the
vectors do not state: whatever the link sends or tells beyond them is a difference.
Source: tests/conformance/vectors/README.md.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message

from relayrpc.errors import LinkRefusedError, ProtocolError, UsageError
from relayrpc.limits import DEFAULT_LIMITS, Limits
from relayrpc.link import events as link_events
from relayrpc.link.call import Call
from relayrpc.link.link import Link
from relayrpc.v1 import link_pb2 as pb


__all__ = ["ACTIONS", "EVENTS", "FOLDER", "Difference", "load", "run"]

FOLDER: Final = Path(__file__).resolve().parents[1] / "conformance" / "vectors"

_ANY_TEXT: Final = "*"
_STEP_KEYS: Final = {"at_s", "carrier", "receive", "hex", "do", "args", "refused"}
_EXPECTATIONS: Final = {"expect_events", "expect_batches"}
_VECTOR_KEYS: Final = {"about", "after", "role", "instance", "limits", "accept", "steps"}


class Difference(AssertionError):
    """The link did something else than the vector says, or the vector is not well formed."""


def load(name: str) -> dict[str, Any]:
    """Read a vector; what it comes `after` is put before its steps."""
    vector: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if "after" in vector:
        before = load(vector.pop("after"))
        vector = {**before, **vector, "steps": before["steps"] + vector["steps"]}
    return vector


def run(vector: dict[str, Any]) -> None:
    """
    Take all steps.

    Raises:
        Difference: At the first step that went otherwise.
    """
    unknown = vector.keys() - _VECTOR_KEYS
    _require(not unknown, f"unknown keys {sorted(unknown)}")
    end = _End(vector)
    for index, step in enumerate(vector["steps"]):
        try:
            end.take(step)
        except Difference as exc:
            text = json.dumps(step)
            raise Difference(f"step {index}: {exc}\nin {text[:300]}") from exc
    # Nothing may be left that no step expected.
    end.take({"expect_events": []})
    end.take({"expect_batches": []})


class _End:
    """The end of a link that the vector is about."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.now_s = 0.0
        self.carrier = 0
        self.calls: dict[int, Call] = {}
        self.accept: dict[str, Any] = {
            key: _bytes(value) for key, value in vector.get("accept", {}).items()
        }
        self.limits = _limits(vector.get("limits", {}))
        _require(vector["role"] in ("dialler", "acceptor"), "role is dialler or acceptor")
        self.link = Link(
            is_dialler=vector["role"] == "dialler",
            limits=self.limits,
            instance=vector["instance"],
            now_s=0.0,
        )

    def take(self, step: dict[str, Any]) -> None:
        at_s = step.get("at_s", self.now_s)
        _require(at_s >= self.now_s, "time runs backwards")
        self.now_s = at_s
        unknown = step.keys() - _STEP_KEYS - _EXPECTATIONS
        _require(not unknown, f"unknown keys {sorted(unknown)}")
        if "receive" in step:
            self._receive(step)
        elif "do" in step:
            self._do(step)
        elif "expect_events" in step:
            # When a writer may go on is between this Link and its program, not on the wire.
            received = self.link.events_received()
            events = [
                self._describe(event)
                for event in received
                if not isinstance(event, link_events.SendReady)
            ]
            _compare([_event(expected) for expected in step["expect_events"]], events)
        else:
            carrier = step.get("carrier", self.carrier)
            sent = list(iter(lambda: self._batch(carrier), None))
            batches = [_to_dict(pb.Batch.FromString(data)) for data in sent]
            expected = [_to_dict(_parse(pb.Batch(), batch)) for batch in step["expect_batches"]]
            _compare(expected, batches)

    def call(self, args: dict[str, Any]) -> Call:
        return self.calls[args.pop("call")]

    def _batch(self, carrier: int) -> bytes | None:
        return self.link.batch_to_send(attempt=carrier, now_s=self.now_s)

    def _receive(self, step: dict[str, Any]) -> None:
        batch = _parse(pb.Batch(), step["receive"])
        data = batch.SerializeToString()
        if "hex" in step:
            # The hex may hold what JSON cannot: fields and bodies that no version defines yet.
            data = bytes.fromhex(step["hex"])
            known = pb.Batch.FromString(data)
            known.DiscardUnknownFields()
            _compare(_to_dict(batch), _to_dict(known))
        first = batch.frames[0].WhichOneof("body") if batch.frames else None
        # A carrier's first batch goes to whoever accepts carriers, who finds the link for it.
        if first == "hello":
            self.link.accept(batch.frames[0].hello, **self.accept)
        elif first == "resume":
            resume = batch.frames[0].resume
            _require(not self.link.accept_resume(resume, now_s=self.now_s), "resume refused")
            self.carrier = resume.attempt
        else:
            carrier = step.get("carrier", self.carrier)
            self.link.receive_batch(data, attempt=carrier, now_s=self.now_s)

    def _do(self, step: dict[str, Any]) -> None:
        is_refused = False
        try:
            ACTIONS[step["do"]](self, dict(step.get("args", {})))
        except UsageError:
            is_refused = True
        _require(is_refused == step.get("refused", False), f"refused: {is_refused}")

    def _describe(self, event: link_events.Event) -> dict[str, Any]:
        if isinstance(event, link_events.CallOpened):
            self.calls[event.call.id] = event.call
        name, describe = EVENTS[type(event)]
        described = {"event": name, **describe(event)}
        call = getattr(event, "call", None)
        if call is not None:
            described["call"] = next(key for key, value in self.calls.items() if value is call)
        return described


# --- what the program does ---


def _open_call(end: _End, args: dict[str, Any]) -> None:
    label = args.pop("call")
    anchor = {"call": args.pop("anchor")} if "anchor" in args else None
    call = end.link.open_call(
        args.pop("method"),
        args.pop("address", ""),
        shape=getattr(pb, args.pop("shape")),
        app=None,
        data=_bytes(args.pop("data", "")),
        metadata=_metadata(args.pop("metadata", [])),
        anchor=None if anchor is None else end.call(anchor),
        now_s=end.now_s,
        **args,
    )
    end.calls[label] = call


def _end_call(end: _End, args: dict[str, Any]) -> None:
    call = end.call(args)
    for key in ("initial_metadata", "trailing_metadata"):
        args[key] = _metadata(args.get(key, []))
    end.link.end_call(call, data=_bytes(args.pop("data", "")), **args)


def _announce(end: _End, args: dict[str, Any]) -> None:
    services = [_parse(pb.ServiceDescription(), service) for service in args["services"]]
    end.link.announce(
        args["id"],
        args["address"],
        services,
        slots=args.get("slots", 0),
        labels=args.get("labels"),
    )


def _carrier_opened(end: _End, _args: dict[str, Any]) -> None:
    end.carrier = end.link.carrier_opened(now_s=end.now_s)


def _timer(end: _End, args: dict[str, Any]) -> None:
    is_dead = end.link.handle_timeout(now_s=end.now_s)
    _require(is_dead == args.get("carrier_is_dead", False), f"carrier is dead: {is_dead}")


ACTIONS: Final[dict[str, Callable[[_End, dict[str, Any]], None]]] = {
    "carrier_opened": _carrier_opened,
    "carrier_lost": lambda end, args: end.link.carrier_lost(args["carrier"], now_s=end.now_s),
    "timer": _timer,
    "open_call": _open_call,
    "send_data": lambda end, args: end.link.send_data(end.call(args), _bytes(args["data"])),
    "half_close": lambda end, args: end.link.half_close(end.call(args)),
    "grant": lambda end, args: end.link.grant(end.call(args), args["credit_bytes"]),
    "begin_call": lambda end, args: end.link.begin_call(
        end.call(args),
        _metadata(args.get("metadata", [])),
        instance=args.get("instance", ""),
        remembers=args.get("remembers", False),
    ),
    "end_call": _end_call,
    "cancel": lambda end, args: end.link.cancel_call(end.call(args)),
    "announce": _announce,
    "answer_announce": lambda end, args: end.link.answer_announce(args.pop("id"), **args),
    "withdraw": lambda end, args: end.link.withdraw(args["id"]),
    "go_away": lambda end, args: end.link.go_away(**args),
    "close": lambda end, args: end.link.close(**args),
}
"""Value of `do` -> how it is done."""


# --- what the link tells ---


def _opened(event: link_events.CallOpened) -> dict[str, Any]:
    opening = _to_dict(event.frame.open)
    # The program sees names, and a time instead of what was left when the batch was sent.
    for key in ("method_text", "address_text", "time_left_us"):
        opening.pop(key, None)
    opening["method"] = event.call.method
    opening["address"] = event.call.address
    if event.call.deadline_s is not None:
        opening["deadline_s"] = event.call.deadline_s
    return opening


def _link_ended(event: link_events.LinkEnded) -> dict[str, Any]:
    why = "lost"
    if event.error is None:
        why = "orderly"
    elif isinstance(event.error, ProtocolError):
        why = "protocol_error"
    elif isinstance(event.error, LinkRefusedError):
        why = "refused"
    return {"why": why}


EVENTS: Final[dict[type[link_events.Event], tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    link_events.WelcomeReceived: (
        "welcome_received",
        lambda event: {"is_resumed": event.is_resumed},
    ),
    link_events.CallOpened: ("call_opened", _opened),
    link_events.BeginReceived: ("begin_received", lambda event: _to_dict(event.frame.begin)),
    link_events.DataReceived: ("data_received", lambda event: {"data": _base64(event.data)}),
    link_events.HalfCloseReceived: ("half_close_received", lambda _: {}),
    link_events.GrantReceived: (
        "grant_received",
        lambda event: {"credit_bytes": event.credit_bytes},
    ),
    link_events.CallEnded: ("call_ended", lambda event: {"end": _to_dict(event.frame.end)}),
    link_events.DeadlinePassed: ("deadline_passed", lambda _: {}),
    link_events.AnnounceReceived: ("announce_received", lambda event: _to_dict(event.announce)),
    link_events.AnnouncedReceived: ("announced_received", lambda event: _to_dict(event.announced)),
    link_events.WithdrawReceived: (
        "withdraw_received",
        lambda event: {"id": event.announcement_id},
    ),
    link_events.GoingAwayReceived: (
        "going_away_received",
        lambda event: {
            "time_left_ms": event.going_away.time_left_ms,
            "reason": event.going_away.reason,
        },
    ),
    link_events.LinkEnded: ("link_ended", _link_ended),
}
"""Type of an event -> its name in vectors, and what vectors say of it."""


# --- values ---


def _event(expected: dict[str, Any]) -> dict[str, Any]:
    described = dict(expected)
    if "data" in described:
        described["data"] = _base64(_bytes(described["data"]))
    if "end" in described:
        described["end"] = _to_dict(_parse(pb.End(), described["end"]))
    return described


def _bytes(value: str | list[Any]) -> bytes:
    """Read bytes: base64, or a list of pieces, some of them runs of one byte."""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    pieces = (
        _bytes(piece) if isinstance(piece, str) else bytes.fromhex(piece["hex"]) * piece["times"]
        for piece in value
    )
    return b"".join(pieces)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _metadata(entries: list[dict[str, str]]) -> list[tuple[str, bytes]]:
    return [(entry["key"], _bytes(entry["value"])) for entry in entries]


def _parse(message: Message, value: dict[str, Any]) -> Any:
    return json_format.ParseDict(_expanded(value), message)


def _expanded(value: Any) -> Any:
    """Write out the bytes of `data` that stand as a list of pieces."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _base64(_bytes(item)) if key == "data" else _expanded(item)
            for key, item in value.items()
        }
    return value


def _to_dict(message: Message) -> dict[str, Any]:
    # 64-bit numbers come as strings, on both sides of every comparison of batches.
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def _limits(given: dict[str, int]) -> Limits:
    changes: dict[str, Any] = {}
    for key, value in given.items():
        if key.endswith("_ms"):
            changes[f"{key.removesuffix('_ms')}_s"] = value / 1000
        else:
            changes[key] = value
    return dataclasses.replace(DEFAULT_LIMITS, **changes)


def _compare(expected: Any, found: Any) -> None:
    if not _matches(expected, found):
        raise Difference(f"\nexpected {_short(expected)}\nfound    {_short(found)}")


def _matches(expected: Any, found: Any) -> bool:
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(
            _matches(value, found[key]) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_matches, expected, found))
    if expected == _ANY_TEXT:
        return isinstance(found, str) and found != ""
    return bool(expected == found)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 2000 else f"{text[:2000]} ..."


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Difference(text)
