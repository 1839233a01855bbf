"""
Logs of a store, in SQL. Synchronous: it runs on the threads of sqlite.py.

Owns: what appending does, and what of a log is kept. Does not own: transactions (file.py).
Source: relayrpc/store/base.py, Store; schema.py.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass

from relayrpc.limits import Limits
from relayrpc.store.base import Record, Retention
from relayrpc.store.checks import (
    PAGE_BYTES,
    PAGE_COUNT,
    bounds_of,
    check_reached,
    check_record,
    check_room,
)


__all__ = ["LogTables", "read_records"]


@dataclass(slots=True)
class _Log:
    """A row of `logs`."""

    log_id: int
    first: int
    last: int
    size_bytes: int
    retention: Retention


class LogTables:
    """
    What writes do. Each method decides before it changes anything: one that raises one of the
    relay's errors has changed nothing.

    Attributes:
        changed: Logs that were changed since `begin()`.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self.changed: list[str] = []
        self._connection = connection
        self._limits = limits

    def begin(self) -> None:
        """Start to note what changes."""
        self.changed = []

    def append(self, name: str, data: bytes, *, time_unix_s: float) -> int:
        log = _find(self._connection, name)
        check_record(data, bounds_of(log.retention if log else Retention(), self._limits))
        log = log or self._make(name)
        log.last += 1
        log.size_bytes += len(data)
        self._connection.execute(
            "INSERT INTO records (log_id, sequence, time_unix_s, data) VALUES (?, ?, ?, ?)",
            (log.log_id, log.last, time_unix_s, data),
        )
        self._trim(log, time_unix_s)
        self.changed.append(name)
        return log.last

    def retain(self, name: str, retention: Retention, *, time_unix_s: float) -> None:
        log = _find(self._connection, name) or self._make(name)
        # By what was said before: what is hidden for its age does not come again.
        self._trim(log, time_unix_s)
        log.retention = retention
        self._connection.execute(
            "UPDATE logs SET records_max = ?, bytes_max = ?, age_s_max = ? WHERE log_id = ?",
            (*astuple(retention), log.log_id),
        )
        self._trim(log, time_unix_s)

    def drop(self, name: str) -> None:
        log = _find(self._connection, name)
        if log:
            self._connection.execute("DELETE FROM records WHERE log_id = ?", (log.log_id,))
            self._connection.execute("DELETE FROM logs WHERE log_id = ?", (log.log_id,))
            self.changed.append(name)

    def _make(self, name: str) -> _Log:
        (count,) = self._connection.execute("SELECT count(*) FROM logs").fetchone()
        check_room("logs", count + 1, self._limits.store_logs_max)
        insert = "INSERT INTO logs (name, first, last, size_bytes) VALUES (?, 1, 0, 0)"
        log_id = self._connection.execute(insert, (name,)).lastrowid
        assert log_id is not None
        return _Log(log_id, 1, 0, 0, Retention())

    def _trim(self, log: _Log, now_unix_s: float) -> None:
        """Delete what is not kept, and write down what is."""
        bounds = bounds_of(log.retention, self._limits)
        execute = self._connection.execute
        while log.first <= log.last:
            oldest = (log.log_id, log.first)
            time_unix_s, size_bytes = execute(
                "SELECT time_unix_s, length(data) FROM records WHERE log_id = ? AND sequence = ?",
                oldest,
            ).fetchone()
            if (
                log.last - log.first < bounds.records_max
                and log.size_bytes <= bounds.bytes_max
                and time_unix_s >= now_unix_s - bounds.age_s_max
            ):
                break
            execute("DELETE FROM records WHERE log_id = ? AND sequence = ?", oldest)
            log.first += 1
            log.size_bytes -= size_bytes
        execute(
            "UPDATE logs SET first = ?, last = ?, size_bytes = ? WHERE log_id = ?",
            (log.first, log.last, log.size_bytes, log.log_id),
        )


def read_records(
    connection: sqlite3.Connection, name: str, after: int, *, limits: Limits, now_unix_s: float
) -> list[Record]:
    """
    Return a page of a log; in a transaction.

    Raises:
        PositionError: It has not come that far.
    """
    log = _find(connection, name)
    check_reached(f"the log {name!r}", after, log.last if log else 0)
    if log is None:
        return []
    oldest_unix_s = now_unix_s - bounds_of(log.retention, limits).age_s_max
    rows = connection.execute(
        "SELECT sequence, time_unix_s, data FROM records"
        " WHERE log_id = ? AND sequence > ? AND time_unix_s >= ? ORDER BY sequence",
        (log.log_id, after, oldest_unix_s),
    )
    records: list[Record] = []
    size_bytes = 0
    for row in rows:
        records.append(Record(*row))
        size_bytes += len(records[-1].data)
        if size_bytes >= PAGE_BYTES or len(records) == PAGE_COUNT:
            break
    return records


def _find(connection: sqlite3.Connection, name: str) -> _Log | None:
    row = connection.execute(
        "SELECT log_id, first, last, size_bytes, records_max, bytes_max, age_s_max"
        " FROM logs WHERE name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    log_id, first, last, size_bytes, records_max, bytes_max, age_s_max = row
    retention = Retention(records_max=records_max, bytes_max=bytes_max, age_s_max=age_s_max)
    return _Log(log_id, first, last, size_bytes, retention)
