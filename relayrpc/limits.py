"""
The bounds of one process, each with its default and the reason for it. Pure data.

Units are in the names. The hub and every endpoint read their bounds from one `Limits` value; what
two peers must agree on travels in Hello and Welcome. Owns: which values make sense together. Does
not own: where they are read from (cli/config.py), what they add up to (hub/capacity.py).

Source: docs/adr/0003-credit.md; protos/relayrpc/v1/link.proto, LinkLimits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final, Literal


__all__ = [
    "DEFAULT_LIMITS",
    "KIB",
    "MESSAGE_BYTES_UNLIMITED",
    "MIB",
    "Limits",
    "SettingProblem",
    "limit_problems",
]

KIB: Final = 1024
MIB: Final = 1024 * KIB
MESSAGE_BYTES_UNLIMITED: Final = 2**32 - 1
"""What a message's length can say at most."""


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
    """
    Numbered strings a link and direction; beyond that they are sent in full. The wire's own.
    """
    name_bytes_max: int = 512
    """Length of an address or method name. The wire's own."""
    metadata_bytes_max: int = 16 * KIB
    """One metadata list, 32 bytes an entry counted in, as gRPC counts. The wire's own."""
    details_bytes_max: int = 4 * KIB
    """Status details; cut, never refused."""

    # --- calls ---
    message_bytes_max: int = 64 * MIB
    """Largest message an endpoint takes; checked on the declared length."""
    message_sent_bytes_max: int = MESSAGE_BYTES_UNLIMITED
    """Largest message an endpoint sends; none but the wire's, as in gRPC."""
    assembly_bytes_max: int = 256 * MIB
    """Sum of declared lengths of messages that one endpoint link is putting together."""
    calls_open_max: int = 4096
    """Calls a peer may have open on one link."""
    announcements_max: int = 1024
    """Announcements live on one link."""
    labels_max: int = 32
    """Labels of one announcement. The wire's own."""
    label_bytes_max: int = 128
    """Length of a label's name, and of its value. The wire's own."""

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
    unread_bytes_max: int = 32 * MIB
    """
    Ends and other answers that wait for a peer; one that sends on and reads none loses its link.
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

    native_calls_max: int = 4_096
    """Calls of plain gRPC clients open at once on one hub."""
    native_streams_max: int = 100
    """
    ... and on one of their connections, where gRPC makes further ones wait, or refuses some with
    `UNAVAILABLE` while those that ended are cleared away.
    """
    native_idle_s: float = 60.0
    """A gRPC client that calls nothing for so long gives its place up; its next call gets one."""
    grpc_window_bytes: int = 256 * KIB
    """
    What a stream on the gRPC port may send ahead of its reader, and a host ahead of a plain gRPC
    client, whatever the distance: no more passes in a round trip. Links on that port take it too.
    """
    queue_calls_max: int = 1_024
    """Calls that wait at one address for a host of one service."""
    queue_bytes_max: int = 64 * MIB
    """What all calls that wait at a hub hold, 1 KiB a call counted in."""
    parked_wait_s: float = 2.0
    """A call waits this long for a host that lost its connection, unless it may wait for ready."""
    one_way_wait_s: float = 60.0
    """
    A one-way call that a hub holds waits this long for a host, and so long for one that does not
    refuse it; then it is lost.
    """
    one_way_kept_bytes_max: int = 32 * MIB
    """
    What a hub keeps of one-way calls that hosts have; one beyond that is lost when its host refuses
    it.
    """
    takeovers_max: int = 2
    """New links of one instance that may replace the one before within `takeovers_window_s`;"""
    takeovers_window_s: float = 60.0
    """... one more is refused: two processes have the same instance id."""
    log_records_per_s_max: int = 10
    """Log records of calls that failed, by address and status; what is beyond is counted."""
    log_keys_max: int = 64
    """
    Addresses and statuses told apart for that, the others count as one: whatever callers make up,
    the log takes 2 % of a core at most.
    """
    metric_series_max: int = 2_000
    """Series of one metric; what is beyond counts under the labels `other`."""
    retry_after_s: float = 1.0
    """What a caller is asked to wait whose call a bound on calls, bytes or watchers has refused."""
    health_watches_max: int = 256
    """Streams of grpc.health.v1 Watch."""
    scrapes_open_max: int = 4
    """Answers to /metrics on their way at a time; at the bounds one of them has 4 MiB."""

    journal_events_max: int = 4_096
    """Events that a hub keeps for watchers of `$hub` who come back,"""
    journal_bytes_max: int = 4 * MIB
    """... and their size; whoever was away for longer gets a snapshot."""
    watchers_max: int = 64
    """Watchers at once."""

    # --- contracts ---
    contract_bytes_max: int = 1 * MIB
    """A contract's descriptors: the file that defines it with all that it imports."""
    contract_file_bytes_max: int = 256 * KIB
    """One file of them: the hub does nothing else while it checks one."""
    contract_files_max: int = 1_024
    """Files of them."""
    contract_types_max: int = 16_384
    """Messages, enums, extensions and services of them: each takes a hundred times its size."""
    contracts_max: int = 4_096
    """Contracts that a hub keeps; those that no host serves any more go first,"""
    contracts_bytes_max: int = 64 * MIB
    """... and what they take, with what is kept to find things in them."""
    contract_pulls_max: int = 8
    """Hosts that a hub asks for descriptors at once;"""
    contract_pull_timeout_s: float = 10.0
    """... each has so long to answer."""
    contract_differences_max: int = 64
    """Differences that are listed where two versions of a contract are compared."""
    contract_checks_max: int = 64
    """Contracts of callers that a hub compares, or has waiting for it, at once."""
    contract_verdicts_max: int = 1_024
    """Comparisons of callers' contracts whose outcome a hub remembers."""
    contract_decision_timeout_s: float = 30.0
    """
    A host whose contract a hub does not know waits so long until it is fetched and compared; then
    it serves without one.
    """
    contract_versions_max: int = 16
    """Versions of a service at an address that a hub's history holds, and as many refused ones."""
    contract_history_max: int = 8_192
    """
    Versions in a hub's whole history; those go first that no host has served for longest,
    """
    contract_history_bytes_max: int = 64 * MIB
    """... and what their descriptors take in the store."""
    contract_history_s: float = 60.0
    """When hosts were last seen is stored so often."""
    reflection_streams_max: int = 256
    """Streams of grpc.reflection on one hub."""

    # --- the store ---
    store_key_bytes_max: int = 1_280
    """
    A key: an address and a service, with room to spare. Escaped it fits into NATS's 4 KiB.
    """
    store_value_bytes_max: int = 1 * MIB
    """What a key holds, and a record of a log: a contract's descriptors. NATS's default."""
    store_keys_max: int = 65_536
    """Keys in one store,"""
    store_bytes_max: int = 128 * MIB
    """... and what they take with their values; a store in memory holds all of it."""
    store_deletions_max: int = 16_384
    """Deleted keys that are remembered: a watcher that is further behind begins anew."""
    store_writes_waiting_max: int = 16_384
    """Writes that wait for the disk,"""
    store_writes_waiting_bytes_max: int = 32 * MIB
    """... and their values; one more is refused."""
    store_watchers_max: int = 256
    """Watchers of keys at once, and as many followers of logs."""
    store_leases_max: int = 4_096
    """Leases at once."""
    store_lease_s_min: float = 1.0
    """The shortest; NATS counts whole seconds."""
    store_lease_s_max: float = 3_600.0
    """The longest: what somebody who is lost leaves behind for so long."""
    store_logs_max: int = 64
    """Logs in one store,"""
    store_log_records_max: int = 65_536
    """... records in each, the oldest go first,"""
    store_log_bytes_max: int = 4 * MIB
    """... what they take without what is around them,"""
    store_log_age_s_max: float = 604_800.0
    """... and how old they get: a week."""

    # --- JSON ---
    json_bytes_max: int = 64 * MIB
    """Largest JSON text that is read as a message."""
    json_depth_max: int = 100
    """Messages within one another there, the outermost counted in; protobuf's own bound."""

    # --- validation ---
    checked_message_bytes_max: int = 64 * KIB
    """
    Largest request that a hub checks; where it checks, larger ones are refused. The hub does
    nothing else while it checks one.
    """
    checked_bytes_max: int = 64 * MIB
    """What requests hold that a hub is to check, or that are not whole; more are refused."""
    checked_contracts_bytes_max: int = 4 * MIB
    """Descriptors whose rules a hub keeps ready, at least one contract's; others wait anew."""
    violations_bytes_max: int = 4 * KIB
    """Violations of rules that a caller is told of one request; the first ones,"""
    violations_request_bytes_max: int = 1 * KIB
    """
    ... and of a request larger than this only the first: one that breaks rules in every byte would
    take a second for 32 KiB.
    """

    # --- the endpoint ---
    contract_recheck_s: float = 60.0
    """
    Where a hub could not say whether a caller's contract fits what is served, it is asked again
    after this.
    """
    checked_services_max: int = 1_024
    """Services at addresses that a channel remembers to have compared."""
    handler_threads_max: int = 32
    """Threads for plain `def` handlers of one server."""
    plugin_threads_max: int = 8
    """Threads for plugins of call credentials of one channel."""
    sessions_max: int = 1_024
    """Sessions at once of one server."""
    session_close_timeout_s: float = 60.0
    """How long a session that is closed waits for its calls and its host; then it is aborted."""
    session_idle_timeout_s: float = 0.0
    """
    A server ends a session in which no call has run for so long; 0: none, as long as its caller is
    there.
    """
    object_close_timeout_s: float = 10.0
    """A server waits so long for a service object to be closed; then it is given up. WCF's."""
    connect_timeout_s: float = 20.0
    """One attempt to open a carrier; gRPC's own minimum."""
    backoff_s_min: float = 0.1
    """First pause between attempts to connect again; grows by 1.6, jittered by 20 %,"""
    backoff_s_max: float = 10.0
    """... up to here."""
    retry_attempts_max: int = 5
    """Attempts of one call that is made again by itself, the first included; gRPC's own bound."""
    retry_backoff_s_min: float = 0.1
    """First pause between them; grows by 3, jittered by 20 %: 4 s in all, a restart's time,"""
    retry_backoff_s_max: float = 3.0
    """... up to here."""
    retry_pushback_s_max: float = 60.0
    """A call that is asked to wait longer than this is over."""
    retry_request_bytes_max: int = 256 * KIB
    """A call whose requests are larger is not made again; as much as gRPC keeps."""
    retry_kept_bytes_max: int = 32 * MIB
    """Requests over `small_bytes_max` that one channel keeps; what is beyond is not made again."""
    retries_waiting_max: int = 1_024
    """Calls of one channel that wait for their next attempt; one more is over."""
    dedupe_s: float = 300.0
    """A host remembers for so long how a call with a dedupe key ended, and waits for its caller,"""
    dedupe_outcomes_max: int = 4_096
    """... and so many of them: the oldest is forgotten first,"""
    dedupe_bytes_max: int = 32 * MIB
    """... and so much. A call that is made again and not remembered fails; it does not run."""


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """Why the value of a setting cannot be used."""

    name: str
    """The field of Limits, or of hub/config.py's HubConfig."""
    text: str
    """What is wrong, to be read behind the name: "is 0, and must be above 0"."""
    beside: tuple[str, ...] = ()
    """Settings that it does not go with; empty: it is wrong by itself."""


def limit_problems(limits: Limits) -> list[SettingProblem]:
    """
    Say what is wrong with each field, by itself and beside the others.

    Returns:
        Problems in the order of the fields, then those of fields that do not go together; such are
        looked for only among fields that are right by themselves. Empty: all can be used.
    """
    problems = []
    for field in fields(limits):
        value = getattr(limits, field.name)
        fault = _fault_alone(field.name, value)
        if fault:
            problems.append(SettingProblem(field.name, f"is {value}, and {fault}"))
    wrong = {problem.name for problem in problems}
    for name, sign, words, bound, beside in _relations(limits):
        value = getattr(limits, name)
        if wrong.isdisjoint((name, *beside)) and not _holds(value, sign, bound):
            text = f"is {value:_}, and must be {sign} {words}, which is {bound:_}"
            problems.append(SettingProblem(name, text, beside))
    return problems


# What makes sense as 0: nothing is kept, nobody waits, nobody gets in.
_MAY_BE_ZERO: Final = frozenset(
    {
        "ack_after_s",
        "contract_checks_max",
        "contract_verdicts_max",
        "dedupe_bytes_max",
        "dedupe_outcomes_max",
        "dedupe_s",
        "drain_timeout_s",
        "health_watches_max",
        "journal_bytes_max",
        "journal_events_max",
        "log_records_per_s_max",
        "native_calls_max",
        "parked_bytes_max",
        "parked_identity_bytes_max",
        "parked_wait_s",
        "queue_bytes_max",
        "queue_calls_max",
        "resume_window_s",
        "retries_waiting_max",
        "retry_kept_bytes_max",
        "retry_request_bytes_max",
        "scrapes_open_max",
        "session_idle_timeout_s",
        "takeovers_max",
        "watchers_max",
    }
)
# Milliseconds of it travel as uint32.
_TIME_S_MAX: Final = 4_000_000
# What gRPC takes for an option is an int32.
_COUNT_MAX: Final = 1_000_000_000
_BYTES_MAX: Final = 2**50
# What link.proto says that peers may offer or send. Names and metadata are not negotiated: who took
# more would pass on what ends the links of others, and who took less would end those of all.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "announcements_max": (1, 1024),
    "batch_bytes_max": (64 * KIB, 256 * KIB),
    # Below, what is around the data would outweigh it.
    "fragment_bytes_max": (KIB, 256 * KIB),
    "initial_credit_bytes": (4 * KIB, 64 * KIB),
    "label_bytes_max": (128, 128),
    "labels_max": (32, 32),
    # No parser of protobuf's takes more.
    "json_depth_max": (1, 100),
    "keepalive_interval_s": (0.1, 86_400),
    "message_sent_bytes_max": (1, MESSAGE_BYTES_UNLIMITED),
    # With two lists of metadata it must fit into 3/4 of the smallest batch a peer may take.
    "details_bytes_max": (1, 8 * KIB),
    "metadata_bytes_max": (16 * KIB, 16 * KIB),
    "name_bytes_max": (512, 512),
    "names_max": (1024, 1024),
    # No more than the least first credit that a peer may give.
    "small_bytes_max": (1, 4 * KIB),
}
# The least a call must be able to have of half its link's budget.
_SHARE_BYTES_MIN: Final = KIB


def _fault_alone(name: str, value: float) -> str:
    if not -math.inf < value < math.inf:
        return "must be a finite number"
    low, high = _RANGES.get(name, (0, _value_max(name)))
    if low == high:
        return "" if value == low else f"must be {low:g}, as on every peer"
    if low and value < low:
        return f"must be at least {low:g}"
    if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
        return "must not be below 0" if name in _MAY_BE_ZERO else "must be above 0"
    return f"must be at most {high:_}" if value > high else ""


def _value_max(name: str) -> int:
    if "_bytes" in name:
        return _BYTES_MAX
    return _TIME_S_MAX if name.endswith("_s") or "_s_" in name else _COUNT_MAX


_Relation = tuple[str, Literal["at most", "at least"], str, float, tuple[str, ...]]


def _relations(limits: Limits) -> list[_Relation]:
    """
    Return what has to hold: field, sign, what it is compared with in words, that value, and the
    fields it comes from.
    """

    def relation(name: str, sign: Literal["at most", "at least"], other: str) -> _Relation:
        return name, sign, other, getattr(limits, other), (other,)

    return [
        relation("message_bytes_max", "at most", "assembly_bytes_max"),
        relation("window_bytes_max", "at least", "initial_credit_bytes"),
        (
            # Half the budget is shared out evenly among the calls of both directions.
            "link_budget_bytes",
            "at least",
            "4 KiB for each of calls_open_max",
            4 * _SHARE_BYTES_MIN * limits.calls_open_max,
            ("calls_open_max",),
        ),
        (
            # A call that has nothing yet may have what is in the other half.
            "link_budget_bytes",
            "at least",
            "twice initial_credit_bytes",
            2 * limits.initial_credit_bytes,
            ("initial_credit_bytes",),
        ),
        relation("unacknowledged_bytes_min", "at most", "unacknowledged_bytes_max"),
        # Until then a peer whose window is full may have to wait.
        relation("ack_after_s", "at most", "keepalive_interval_s"),
        relation("contract_bytes_max", "at most", "contracts_bytes_max"),
        relation("contract_file_bytes_max", "at most", "contract_bytes_max"),
        relation("contract_bytes_max", "at most", "store_value_bytes_max"),
        relation("contract_bytes_max", "at most", "contract_history_bytes_max"),
        relation("contract_history_bytes_max", "at most", "store_bytes_max"),
        relation("store_value_bytes_max", "at most", "store_bytes_max"),
        relation("store_value_bytes_max", "at most", "store_writes_waiting_bytes_max"),
        relation("store_value_bytes_max", "at most", "store_log_bytes_max"),
        relation("store_lease_s_min", "at most", "store_lease_s_max"),
        relation("backoff_s_min", "at most", "backoff_s_max"),
        relation("retry_backoff_s_min", "at most", "retry_backoff_s_max"),
    ]


def _holds(value: float, sign: str, bound: float) -> bool:
    return value <= bound if sign == "at most" else value >= bound
