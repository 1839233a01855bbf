"""
What a hub's limits add up to: memory at its worst, and links for the file descriptors there are.
Pure.

Owns: the sums, and what things weigh beside the bytes that limits count. Does not own: the limits
(limits.py), how the sums are told (cli/).
Source: docs/reference/configuration.md "What the limits add up to"; docs/performance.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relayrpc.errors import ConfigError
from relayrpc.hub.contract_checks import DIFFERENCES_MAX
from relayrpc.limits import KIB, MIB


if TYPE_CHECKING:
    from relayrpc.limits import Limits


__all__ = [
    "MemoryPart",
    "WorstCase",
    "descriptors_wanted",
    "fit_descriptors",
    "size_text",
    "worst_case",
]

_LINK_BYTES: Final = 64 * KIB
"""An idle link with its carrier; 52 KiB were measured on the gRPC port, 12 KiB on the other."""
_CALL_BYTES: Final = 2 * KIB
"""What an open call is on one link without its metadata; less than 1 KiB was measured."""
_SERIES_BYTES: Final = 1 * KIB
"""A series of a metric; half of it was measured."""
# Of 16 bytes an OPEN is answered by an END of 100.
_ANSWER_RATIO: Final = 8
_SCRAPE_BYTES: Final = 4 * MIB
_VERSION_BYTES: Final = 1 * KIB
"""An entry of the history without its details; half of it was measured."""
_VERDICT_BYTES: Final = DIFFERENCES_MAX * KIB
"""The outcome of a comparison, whose differences have at most 700 characters each."""
# Descriptors take 80 times their size while they are checked, at the worst; measured.
_CHECK_FACTOR: Final = 100
# The doors, the loop, standard streams, files of TLS.
_DESCRIPTORS_RESERVED: Final = 64
# Of descriptors that do not suffice, handshakes get a quarter: without any nobody could resume.
_HANDSHAKES_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """Something that a hub may have to hold."""

    what: str
    size_bytes: int
    limits: tuple[str, ...]
    """The fields of Limits that bound it."""


@dataclass(frozen=True, slots=True)
class WorstCase:
    """All that peers can make a hub hold when every bound is reached at once."""

    of_link: tuple[MemoryPart, ...]
    """For each link; those that are parked are among `links_max` and hold less."""
    of_hub: tuple[MemoryPart, ...]
    """Once for the hub."""
    links_max: int

    @property
    def link_bytes(self) -> int:
        """The sum of one link."""
        return sum(part.size_bytes for part in self.of_link)

    @property
    def total_bytes(self) -> int:
        """The sum of all links and of the hub."""
        return self.links_max * self.link_bytes + sum(part.size_bytes for part in self.of_hub)

    @property
    def idle_bytes(self) -> int:
        """What as many links weigh when nothing happens on them."""
        return self.links_max * _LINK_BYTES


def worst_case(limits: Limits) -> WorstCase:
    """
    Add up what peers could make a hub hold.

    What counts are bytes as the limits count them. Objects around small pieces weigh more than
    those, buffers of the operating system are not the hub's memory, and what hosts and callers hold
    is theirs.
    """
    return WorstCase(_of_link(limits), _of_hub(limits), limits.links_max)


def _of_link(limits: Limits) -> tuple[MemoryPart, ...]:
    metadata_bytes = limits.metadata_bytes_max
    batch_bytes = limits.batch_bytes_max
    return (
        MemoryPart("the link itself, idle", _LINK_BYTES, ()),
        MemoryPart(
            # gRPC has one bound for all that its port takes, and it is that of messages.
            "a message of its carrier, arriving",
            max(batch_bytes, limits.message_bytes_max) + limits.grpc_window_bytes,
            ("batch_bytes_max", "message_bytes_max", "grpc_window_bytes"),
        ),
        MemoryPart(
            "data for it, waiting or still to come",
            limits.link_budget_bytes,
            ("link_budget_bytes",),
        ),
        MemoryPart(
            # The window is looked at before a batch is cut.
            "batches not acknowledged",
            limits.unacknowledged_bytes_max + limits.control_reserve_bytes + batch_bytes,
            ("unacknowledged_bytes_max", "control_reserve_bytes", "batch_bytes_max"),
        ),
        MemoryPart(
            # Of either direction: opened ones wait with one list, ends with two and the details.
            "calls: entries, metadata, details",
            limits.calls_open_max
            * (2 * _CALL_BYTES + 3 * metadata_bytes + limits.details_bytes_max),
            ("calls_open_max", "metadata_bytes_max", "details_bytes_max"),
        ),
        MemoryPart(
            # Overrun at most by the answers to one batch.
            "answers that its peer does not read",
            limits.unread_bytes_max + _ANSWER_RATIO * batch_bytes,
            ("unread_bytes_max", "batch_bytes_max"),
        ),
        MemoryPart(
            "announcements",
            limits.announcements_max * batch_bytes,
            ("announcements_max", "batch_bytes_max"),
        ),
        MemoryPart(
            "names, both directions",
            2 * limits.names_max * limits.name_bytes_max,
            ("names_max", "name_bytes_max"),
        ),
    )


def _of_hub(limits: Limits) -> tuple[MemoryPart, ...]:
    clients = min(limits.links_max, limits.native_calls_max)
    return (
        MemoryPart(
            "handshakes",
            limits.handshakes_open_max * (_LINK_BYTES + limits.message_bytes_max),
            ("handshakes_open_max", "message_bytes_max"),
        ),
        MemoryPart(
            # In gRPC's hands, arriving and leaving.
            "gRPC clients' calls: a message and a window each way",
            limits.native_calls_max * 2 * (limits.message_bytes_max + limits.grpc_window_bytes),
            ("native_calls_max", "message_bytes_max", "grpc_window_bytes"),
        ),
        MemoryPart(
            "gRPC clients' calls: responses being joined",
            clients * limits.assembly_bytes_max,
            ("native_calls_max", "links_max", "assembly_bytes_max"),
        ),
        MemoryPart("calls that wait for a host", limits.queue_bytes_max, ("queue_bytes_max",)),
        MemoryPart(
            "one-way calls that hosts have",
            limits.one_way_kept_bytes_max,
            ("one_way_kept_bytes_max",),
        ),
        MemoryPart(
            "journal and its watchers",
            limits.journal_bytes_max + limits.watchers_max * limits.batch_bytes_max,
            ("journal_bytes_max", "watchers_max", "batch_bytes_max"),
        ),
        MemoryPart(
            "contracts: kept, fetched, and two being compared",
            limits.contracts_bytes_max
            + (2 * limits.contract_pulls_max + 2 * _CHECK_FACTOR) * limits.contract_bytes_max,
            ("contracts_bytes_max", "contract_pulls_max", "contract_bytes_max"),
        ),
        MemoryPart(
            # Each with its request.
            "contracts of callers, to be compared",
            2 * limits.contract_checks_max * limits.contract_bytes_max
            + limits.contract_verdicts_max * _VERDICT_BYTES,
            ("contract_checks_max", "contract_bytes_max", "contract_verdicts_max"),
        ),
        MemoryPart(
            "history of contracts",
            limits.contract_history_max * (_VERSION_BYTES + limits.details_bytes_max),
            ("contract_history_max", "details_bytes_max"),
        ),
        MemoryPart(
            "store, where it is in memory", limits.store_bytes_max, ("store_bytes_max",)
        ),
        MemoryPart(
            "requests that are checked, and the rules for that",
            limits.checked_bytes_max
            + _CHECK_FACTOR * max(limits.checked_contracts_bytes_max, limits.contract_bytes_max),
            ("checked_bytes_max", "checked_contracts_bytes_max", "contract_bytes_max"),
        ),
        MemoryPart(
            "answers of reflection",
            limits.reflection_streams_max * limits.contract_bytes_max,
            ("reflection_streams_max", "contract_bytes_max"),
        ),
        MemoryPart(
            "metrics, and answers to /metrics",
            limits.metric_series_max * _SERIES_BYTES + limits.scrapes_open_max * _SCRAPE_BYTES,
            ("metric_series_max", "scrapes_open_max"),
        ),
    )


def descriptors_wanted(limits: Limits) -> int:
    """Return how many file descriptors all links and handshakes use: one each, and the hub's."""
    return limits.links_max + limits.handshakes_open_max + _DESCRIPTORS_RESERVED


def fit_descriptors(limits: Limits, descriptors: int) -> Limits:
    """
    Lower `links_max`, and `handshakes_open_max` too, to what so many file descriptors allow.

    Returns:
        The same limits when they suffice.

    Raises:
        ConfigError: They allow not one link.
    """
    if descriptors >= descriptors_wanted(limits):
        return limits
    left = descriptors - _DESCRIPTORS_RESERVED
    handshakes = min(limits.handshakes_open_max, left // _HANDSHAKES_SHARE)
    if handshakes < 1:
        raise ConfigError(
            f"{descriptors} file descriptors are too few for a hub: allow it at least "
            f"{_DESCRIPTORS_RESERVED + _HANDSHAKES_SHARE} (ulimit -n)",
            descriptors=descriptors,
        )
    return dataclasses.replace(
        limits,
        links_max=min(limits.links_max, left - handshakes),
        handshakes_open_max=handshakes,
    )


def size_text(size_bytes: int) -> str:
    """Write a size for people: "594.6 MiB"."""
    size, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
