"""
How records are written. Goal: a machine reads every line, and nobody but the hub writes one.
Method: records whose fields are any text, written and read back.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen import logs_page
from relayrpc.observe.logs import (
    LOG_EVENTS,
    JSONFormatter,
    TextFormatter,
    configure_logging,
    log_event,
)


WHEN_S = 1_772_357_400.25
ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
FIELD = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)')


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.created = WHEN_S
        self.records.append(record)


def record_of(message: str, **values: object) -> logging.LogRecord:
    """Log an event, and return what a handler gets."""
    logger = logging.Logger("relayrpc.hub")
    handler = Kept()
    logger.addHandler(handler)
    log_event(logger, message, **values)  # type: ignore[arg-type]
    (record,) = handler.records
    return record


def plain_record(text: str, *, exc_info: bool = False) -> logging.LogRecord:
    info = sys.exc_info() if exc_info else None
    record = logging.LogRecord("lib", logging.ERROR, __file__, 1, "%s", (text,), info)
    record.created = WHEN_S
    return record


def test_text_is_one_line_with_its_fields() -> None:
    record = record_of("call ended", call_id=7, peer="ipv4:1.2.3.4:5", may_have_executed=True)
    assert TextFormatter().format(record) == (
        "2026-03-01T09:30:00.250Z INFO relayrpc.hub: "
        "call ended call_id=7 peer=ipv4:1.2.3.4:5 may_have_executed=true"
    )


def test_json_is_an_object_with_its_fields() -> None:
    record = record_of("call failed", call_id=7, duration_s=0.123456789, details="no 'host'")
    assert json.loads(JSONFormatter().format(record)) == {
        "time": "2026-03-01T09:30:00.250Z",
        "level": "WARNING",
        "logger": "relayrpc.hub",
        "message": "call failed",
        "call_id": 7,
        "duration_s": 0.123457,
        "details": "no 'host'",
    }


def test_any_other_handler_sees_text_and_attributes() -> None:
    record = record_of("call ended", call_id=7, address="a/b")
    assert logging.Formatter("%(message)s %(address)s").format(record) == (
        "call ended call_id=7 address=a/b a/b"
    )


def test_what_has_no_value_is_left_out() -> None:
    record = record_of("call ended", call_id=0, peer="", instance=None, may_have_executed=False)
    assert record.getMessage() == "call ended call_id=0 may_have_executed=false"


def test_long_values_are_cut() -> None:
    record = record_of("call ended", address="a" * 513, details=["b" * 513] * 33)
    assert record.address == "a" * 512 + "..."  # type: ignore[attr-defined]
    assert record.details == ["b" * 512 + "..."] * 32  # type: ignore[attr-defined]


@given(values=st.dictionaries(st.sampled_from(LOG_EVENTS["call failed"].fields), ANY_TEXT))
def test_no_text_can_be_taken_for_another_line_or_field(values: dict[str, str]) -> None:
    record = record_of("call failed", **values)
    expected = {name: value for name, value in values.items() if value}

    line = TextFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    _, _, fields = line.partition(": call failed")
    found = {
        name: json.loads(value) if value[0] == '"' else value
        for name, value in FIELD.findall(fields)
    }
    assert found == expected
    assert FIELD.sub("", fields) == ""

    line = JSONFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    assert {name: read[name] for name in expected} == expected
    assert read.keys() == {"time", "level", "logger", "message", *expected}


@given(text=ANY_TEXT)
def test_other_programs_records_are_one_line_too(text: str) -> None:
    record = plain_record(text)
    assert TextFormatter().format(record).isprintable()
    assert json.loads(JSONFormatter().format(record))["message"] == text


@given(text=ANY_TEXT)
def test_no_exception_can_begin_a_line(text: str) -> None:
    try:
        raise ValueError(f"{text}\n2026-03-01T09:30:00.250Z INFO relayrpc.hub: forged")
    except ValueError:
        record = plain_record("failed", exc_info=True)
    first, *others = TextFormatter().format(record).split("\n")
    assert first.endswith(" ERROR lib: failed")
    assert others[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert "ValueError" in json.loads(JSONFormatter().format(record))["exception"]


def test_names_of_fields_are_free() -> None:
    taken = {*vars(logging.makeLogRecord({})), "message", "asctime"}
    taken |= {"time", "level", "logger", "exception"}
    for event in LOG_EVENTS.values():
        assert not taken & {*event.fields}, event.message
        assert len({*event.fields}) == len(event.fields)


def test_page_has_the_table() -> None:
    page = logs_page.PAGE.read_text(encoding="utf-8")
    assert page == logs_page.render(page)
    for event in LOG_EVENTS.values():
        for name in event.fields:
            assert page.count(f"`{name}`") > 1, f"{name} is not explained"


@pytest.mark.parametrize(
    ("form", "level", "expected"),
    [
        ("text", "info", ["relayrpc.x: info", "relayrpc.x: warning", "other: warning"]),
        ("text", "error", ["other: warning"]),
        ("json", "warning", ['"message": "warning"', '"message": "warning"']),
        (
            "text",
            "debug",
            ["relayrpc.x: debug", "relayrpc.x: info", "relayrpc.x: warning", "other: warning"],
        ),
    ],
)
def test_a_process_writes_on_standard_error_what_it_is_told(
    form: str, level: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("relayrpc")
    level_before = ours.level
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(root, "handlers", [])
    try:
        configure_logging(form=form, level=level)  # type: ignore[arg-type]
        for name in ("relayrpc.x", "other"):
            for kind in ("debug", "info", "warning"):
                getattr(logging.getLogger(name), kind)(kind)
    finally:
        ours.setLevel(level_before)
    lines = written.getvalue().splitlines()
    assert len(lines) == len(expected)
    assert all(end in line for line, end in zip(lines, expected, strict=True))
