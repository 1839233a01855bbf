"""
What limits add up to. Goal: no bound is left out of the sum, and no hub takes more links than it
has file descriptors for. Method: the sums of changed limits; descriptors around each edge.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.errors import ConfigError
from relayrpc.hub.capacity import descriptors_wanted, fit_descriptors, size_text, worst_case
from relayrpc.limits import DEFAULT_LIMITS, KIB, MIB, Limits, limit_problems


# Limits that give a hub nothing to hold, and why.
WEIGHTLESS = {
    # Within what another one bounds.
    "batch_bytes_target", "fragment_bytes_max", "small_bytes_max", "initial_credit_bytes",
    "checked_message_bytes_max",
    "window_bytes_max", "unacknowledged_bytes_min", "ack_after_bytes", "ack_after_batches",
    "parked_bytes_max", "parked_identity_bytes_max", "native_streams_max", "queue_calls_max",
    "journal_events_max", "takeovers_max", "contracts_max", "contract_file_bytes_max",
    "contract_files_max", "contract_types_max", "labels_max", "label_bytes_max",
    "contract_versions_max", "contract_history_bytes_max", "checked_services_max",
    # A number or a name for each, less than what is rounded up elsewhere.
    "health_watches_max", "log_keys_max", "log_records_per_s_max", "contract_differences_max",
    # At hosts and callers.
    "violations_bytes_max", "violations_request_bytes_max",
    "send_queue_bytes_high", "handler_threads_max", "message_sent_bytes_max", "plugin_threads_max",
    "retry_attempts_max", "retry_request_bytes_max", "retry_kept_bytes_max", "retries_waiting_max",
    "dedupe_outcomes_max", "dedupe_bytes_max", "sessions_max", "json_bytes_max", "json_depth_max",
    # In a store, within what it may hold, or for what no hub has in it yet.
    "store_key_bytes_max", "store_value_bytes_max", "store_keys_max",
    "store_deletions_max", "store_watchers_max", "store_leases_max", "store_logs_max",
    "store_log_records_max", "store_log_bytes_max", "store_writes_waiting_max",
    "store_writes_waiting_bytes_max",
}  # fmt: skip


def test_every_limit_is_in_the_sum_or_gives_nothing_to_hold() -> None:
    worst = worst_case(DEFAULT_LIMITS)
    counted = {name for part in (*worst.of_link, *worst.of_hub) for name in part.limits}
    others = {field.name for field in fields(Limits)} - counted - WEIGHTLESS - {"links_max"}
    assert all("_s" in name for name in others), others
    assert not counted & WEIGHTLESS


@pytest.mark.parametrize(
    "name", sorted({name for part in worst_case(DEFAULT_LIMITS).of_link for name in part.limits})
)
def test_each_bound_of_a_link_counts_once_for_every_link(name: str) -> None:
    more = replace(DEFAULT_LIMITS, **{name: 2 * getattr(DEFAULT_LIMITS, name)})
    if name == "batch_bytes_max":
        more = replace(more, message_bytes_max=64 * MIB)
    before, after = worst_case(DEFAULT_LIMITS), worst_case(more)
    grown = after.link_bytes - before.link_bytes
    assert grown > 0
    assert after.total_bytes - before.total_bytes >= DEFAULT_LIMITS.links_max * grown


def test_sum_of_round_numbers() -> None:
    limits = replace(
        DEFAULT_LIMITS,
        links_max=2,
        handshakes_open_max=1,
        message_bytes_max=1 * MIB,
        grpc_window_bytes=64 * KIB,
        link_budget_bytes=1 * MIB,
        unacknowledged_bytes_max=512 * KIB,
        control_reserve_bytes=256 * KIB,
        batch_bytes_max=256 * KIB,
        calls_open_max=1,
        announcements_max=1,
        native_calls_max=0,
        queue_bytes_max=3 * MIB,
        one_way_kept_bytes_max=7 * MIB,
        journal_bytes_max=0,
        watchers_max=0,
        metric_series_max=1024,
        scrapes_open_max=0,
        contracts_bytes_max=0,
        contract_bytes_max=0,
        contract_history_max=0,
        contract_checks_max=0,
        contract_verdicts_max=0,
        store_bytes_max=0,
        checked_bytes_max=5 * MIB,
        checked_contracts_bytes_max=64 * KIB,
    )
    worst = worst_case(limits)
    parts = {part.what: part.size_bytes // KIB for part in worst.of_link}
    assert list(parts.values()) == [
        64,  # itself
        1024 + 64,  # what arrives
        1024,  # its budget
        1024,  # not acknowledged
        4 + 48 + 4,  # a call each way
        32 * 1024 + 8 * 256,  # unread
        256,  # an announcement
        1024,  # names
    ]
    assert worst.link_bytes == KIB * sum(parts.values())
    of_hub = (64 * KIB + 1 * MIB) + (3 + 7) * MIB + 1 * MIB + (5 * MIB + 100 * 64 * KIB)
    assert worst.total_bytes == 2 * worst.link_bytes + of_hub
    assert worst.idle_bytes == 128 * KIB


# --- file descriptors ---


def test_enough_descriptors_change_nothing() -> None:
    assert descriptors_wanted(DEFAULT_LIMITS) == 20_000 + 1024 + 64
    assert fit_descriptors(DEFAULT_LIMITS, 21_088) is DEFAULT_LIMITS


@pytest.mark.parametrize(
    ("descriptors", "links", "handshakes"),
    [(21_087, 19_999, 1024), (4160, 3072, 1024), (1024, 720, 240), (256, 144, 48), (68, 3, 1)],
)
def test_few_descriptors_leave_a_quarter_to_handshakes(
    descriptors: int, links: int, handshakes: int
) -> None:
    fitted = fit_descriptors(DEFAULT_LIMITS, descriptors)
    assert (fitted.links_max, fitted.handshakes_open_max) == (links, handshakes)


@pytest.mark.parametrize("descriptors", [67, 64, 0])
def test_hub_does_not_start_without_descriptors_for_links(descriptors: int) -> None:
    with pytest.raises(ConfigError, match=f"^{descriptors} file descriptors are too few .*68"):
        fit_descriptors(DEFAULT_LIMITS, descriptors)


@given(
    links=st.integers(1, 10**6),
    handshakes=st.integers(1, 10**5),
    descriptors=st.integers(68, 10**6),
)
def test_what_is_fitted_fits_and_can_be_used(
    links: int, handshakes: int, descriptors: int
) -> None:
    limits = replace(DEFAULT_LIMITS, links_max=links, handshakes_open_max=handshakes)
    fitted = fit_descriptors(limits, descriptors)
    assert descriptors_wanted(fitted) <= descriptors
    assert 1 <= fitted.links_max <= links
    assert 1 <= fitted.handshakes_open_max <= handshakes
    assert not limit_problems(fitted)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (595 * MIB, "595.0 MiB"),
        (2**40 * 12 + 2**39, "12.5 TiB"),
        (2**70, "1024.0 EiB"),
    ],
)
def test_sizes_are_written_for_people(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
