"""
Which limits go together. Goal: what would stop links or calls is refused before anything starts,
and what works is not.

Method: every field at its edges; a case for each relation, on both sides of it. That what is taken
does work is tests/property/test_limits.py's.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from relayrpc.limits import DEFAULT_LIMITS, KIB, MIB, Limits, SettingProblem, limit_problems


NAMES = [field.name for field in fields(Limits)]


def problems(**values: Any) -> list[SettingProblem]:
    return limit_problems(replace(DEFAULT_LIMITS, **values))


def test_defaults_go_together() -> None:
    assert not problems()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 2**60])
def test_no_field_takes_nonsense(name: str, value: float) -> None:
    (problem,) = problems(**{name: value})
    assert problem.name == name
    assert problem.text.startswith(f"is {value}, and must ")
    assert problem.beside == ()


def test_zero_is_taken_where_it_means_none() -> None:
    taken = {name for name in NAMES if not problems(**{name: 0})}
    assert taken == {
        "ack_after_s", "contract_checks_max", "contract_verdicts_max", "dedupe_bytes_max",
        "dedupe_outcomes_max", "dedupe_s", "drain_timeout_s",
        "health_watches_max", "journal_bytes_max",
        "journal_events_max", "log_records_per_s_max", "native_calls_max", "parked_bytes_max",
        "parked_identity_bytes_max", "parked_wait_s", "queue_bytes_max", "queue_calls_max",
        "resume_window_s", "retries_waiting_max", "retry_kept_bytes_max",
        "retry_request_bytes_max", "scrapes_open_max", "session_idle_timeout_s", "takeovers_max",
        "watchers_max",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "name", "beside"),
    [
        ({"message_bytes_max": 257 * MIB}, "message_bytes_max", ("assembly_bytes_max",)),
        ({"window_bytes_max": 4 * KIB}, "window_bytes_max", ("initial_credit_bytes",)),
        ({"calls_open_max": 8193}, "link_budget_bytes", ("calls_open_max",)),
        (
            {"link_budget_bytes": 127 * KIB, "calls_open_max": 1},
            "link_budget_bytes",
            ("initial_credit_bytes",),
        ),
        (
            {"unacknowledged_bytes_max": 256 * KIB},
            "unacknowledged_bytes_min",
            ("unacknowledged_bytes_max",),
        ),
        ({"ack_after_s": 11.0}, "ack_after_s", ("keepalive_interval_s",)),
        ({"backoff_s_max": 0.05}, "backoff_s_min", ("backoff_s_max",)),
    ],
)
def test_what_contradicts_another_is_named_with_it(
    values: dict[str, float], name: str, beside: tuple[str, ...]
) -> None:
    (problem,) = problems(**values)
    assert (problem.name, problem.beside) == (name, beside)
    for other in beside:
        assert other in problem.text


@pytest.mark.parametrize(
    "values",
    [
        {"details_bytes_max": 8 * KIB, "batch_bytes_max": 64 * KIB},
        {"message_bytes_max": 256 * MIB},
        {"window_bytes_max": 64 * KIB},
        {"calls_open_max": 8192},
        {"link_budget_bytes": 128 * KIB, "calls_open_max": 1},
        {"unacknowledged_bytes_max": 512 * KIB},
        {"ack_after_s": 10.0},
        {"backoff_s_max": 0.1},
    ],
)
def test_relations_take_their_bound(values: dict[str, float]) -> None:
    assert not problems(**values)


def test_all_that_is_wrong_is_told_at_once_and_nothing_twice() -> None:
    found = problems(links_max=0, names_max=1000, calls_open_max=10_000, backoff_s_min=-1.0)
    assert [problem.name for problem in found] == [
        "names_max",
        "links_max",
        "backoff_s_min",
        "link_budget_bytes",
    ]


def test_sentences_can_be_read() -> None:
    texts = [f"{each.name} {each.text}" for each in problems(links_max=0, calls_open_max=10_000)]
    assert texts == [
        "links_max is 0, and must be above 0",
        "link_budget_bytes is 33_554_432, and must be at least 4 KiB for each of calls_open_max, "
        "which is 40_960_000",
    ]
