"""
Every bound the relay keeps, with its default and the reason for it. Pure data.

Units are in the names. The hub and every endpoint read their bounds from one `Limits` value; what
two peers must
agree on travels in Hello and Welcome.

Source: docs/adr/0003-credit.md; protos/relayrpc/v1/link.proto, LinkLimits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


__all__ = ["DEFAULT_LIMITS", "KIB", "MIB", "Limits"]

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one process. Copy with `dataclasses.replace`."""

    # --- the wire ---
    batch_bytes_max: int = 256 * KIB
    """
    Largest batch taken; below gRPC's 4 MiB and WebSocket libraries' 1 MiB, which kill a carrier.
    """
    batch_bytes_target: int = 128 * KIB
    """
    A batch is closed once it holds this much bulk data, so that turns between calls come often.
    """
    fragment_bytes_max: int = 64 * KIB
    """Most data in one frame."""
    small_bytes_max: int = 4 * KIB
    """A call with no more than this waiting goes before bulk."""
    names_max: int = 1024
    """Numbered strings a link and direction; beyond that they are sent in full."""
    name_bytes_max: int = 512
    """Length of an address or method name."""
    metadata_bytes_max: int = 16 * KIB
    """One metadata list, 32 bytes an entry counted in, as gRPC counts."""
    details_bytes_max: int = 4 * KIB
    """Status details; cut, never refused."""

    # --- calls ---
    message_bytes_max: int = 64 * MIB
    """Largest message an endpoint takes; checked on the declared length."""
    assembly_bytes_max: int = 256 * MIB
    """Sum of declared lengths of messages that one endpoint link is putting together."""
    calls_open_max: int = 4096
    """Calls a peer may have open on one link."""
    announcements_max: int = 1024
    """Announcements live on one link."""

    # --- credit ---
    initial_credit_bytes: int = 64 * KIB
    """Data an Open may carry and the first credit for its responses."""
    window_bytes_max: int = 8 * MIB
    """Largest credit window of one call; it follows round trip times rate up to here."""
    link_budget_bytes: int = 32 * MIB
    """Bytes queued plus credit given out for what leaves by one link."""
    unacknowledged_bytes_min: int = 512 * KIB
    """The window of unacknowledged batches starts here: two full batches."""
    unacknowledged_bytes_max: int = 16 * MIB
    """... and grows to here with round trip times rate; at the bound the writer waits."""
    control_reserve_bytes: int = 1 * MIB
    """
    What GRANT, CANCEL and END may use beyond the bound, so that two full windows cannot deadlock.
    """
    send_queue_bytes_high: int = 256 * KIB
    """A stream's `write()` waits while more than this is unsent in its call."""

    # --- acknowledgement ---
    ack_after_bytes: int = 64 * KIB
    """An ack goes out alone after this much was received,"""
    ack_after_batches: int = 32
    """or this many batches,"""
    ack_after_s: float = 0.1
    """or this long."""

    # --- time ---
    keepalive_interval_s: float = 10.0
    """
    Ping after this much silence, give the carrier up after twice as much: 20 s to find a silent
    peer.
    """
    handshake_timeout_s: float = 10.0
    """A new carrier must complete its handshake within this."""
    resume_window_s: float = 30.0
    """A link without a carrier lives this long."""
    drain_timeout_s: float = 30.0
    """After GoingAway running calls may finish for this long."""

    # --- the hub ---
    links_max: int = 20_000
    """Links on one hub, parked ones included."""
    handshakes_open_max: int = 1_024
    """Carriers that have not completed their handshake, on both doors together."""
    parked_bytes_max: int = 256 * MIB
    """Bytes kept for all parked links; the oldest of the heaviest identity expires first."""
    parked_identity_bytes_max: int = 64 * MIB
    """Of that, for one identity."""

    # --- the endpoint ---
    handler_threads_max: int = 32
    """Threads for plain `def` handlers of one server."""
    connect_timeout_s: float = 20.0
    """One attempt to open a carrier; gRPC's own minimum."""
    backoff_s_min: float = 0.1
    """First pause between attempts to connect again; grows by 1.6, jittered by 20 %,"""
    backoff_s_max: float = 10.0
    """... up to here."""


DEFAULT_LIMITS: Final = Limits()
