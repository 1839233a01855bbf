"""
Goal: metadata keeps order, duplicates and bytes, and what gRPC or the relay does not allow is
refused.

Method: tables of what a program gives and what stands on the wire.
"""

from __future__ import annotations

import pytest
from grpc.aio import InternalError, Metadata, UsageError

from relayrpc.endpoint.metadata import (
    MetadataTooLargeError,
    RelayKeys,
    decode_metadata,
    decode_pairs,
    encode_invocation_metadata,
    encode_metadata,
)
from relayrpc.v1 import link_pb2 as pb


LIMIT = 16 * 1024


@pytest.mark.parametrize("nothing", [None, (), [], Metadata()])
def test_nothing_is_empty(nothing: object) -> None:
    assert encode_metadata(nothing, limit_bytes=LIMIT) == ()
    assert encode_invocation_metadata(nothing, limit_bytes=LIMIT) == ((), RelayKeys())


def test_order_and_duplicates_are_kept() -> None:
    given = (("b", "1"), ("a", "2"), ("b", "3"), ("x-bin", b"\x00\xff"), ("x-bin", b""))
    pairs = encode_metadata(given, limit_bytes=LIMIT)
    assert pairs == (
        ("b", b"1"),
        ("a", b"2"),
        ("b", b"3"),
        ("x-bin", b"\x00\xff"),
        ("x-bin", b""),
    )


def test_metadata_object_is_taken() -> None:
    assert encode_metadata(Metadata(("a", "1")), limit_bytes=LIMIT) == (("a", b"1"),)


def test_bytes_under_a_text_key_arrive_as_text() -> None:
    pairs = encode_metadata([("a", b"1")], limit_bytes=LIMIT)
    assert decode_pairs(pairs) == (("a", "1"),)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Upper", "x"),
        ("with space", "x"),
        (":path", "x"),
        ("", "x"),
        ("a", "ümlaut"),
        ("a", "line\nbreak"),
        ("a", b"\x7f"),
    ],
)
def test_what_grpc_does_not_allow_is_an_internal_error(key: str, value: str | bytes) -> None:
    with pytest.raises(InternalError, match="Invalid metadata"):
        encode_metadata([(key, value)], limit_bytes=LIMIT)


@pytest.mark.parametrize(("key", "value"), [("a-bin", "text"), ("a", 1), ("a", None)])
def test_wrong_type_is_a_type_error(key: str, value: object) -> None:
    with pytest.raises(TypeError, match="found: metadata"):
        encode_metadata([(key, value)], limit_bytes=LIMIT)  # type: ignore[list-item]


@pytest.mark.parametrize("key", ["te", "user-agent", "content-type", "grpc-timeout"])
def test_headers_of_one_hop_are_dropped(key: str) -> None:
    assert encode_metadata([(key, "x"), ("a", "1")], limit_bytes=LIMIT) == (("a", b"1"),)


def test_status_details_pass() -> None:
    pair = ("grpc-status-details-bin", b"\x08\x05")
    assert encode_metadata([pair], limit_bytes=LIMIT) == (pair,)


def test_size_counts_32_bytes_an_entry() -> None:
    assert encode_metadata([("a", "1" * 67)], limit_bytes=100)
    with pytest.raises(MetadataTooLargeError, match="metadata of 101 bytes is over 100 bytes"):
        encode_metadata([("a", "1" * 68)], limit_bytes=100)


def test_relay_keys_are_taken_out_of_what_a_caller_sends() -> None:
    given = [("relay-address", "contoso/b"), ("a", "1"), ("relay-instance", "i-1")]
    pairs, relay_keys = encode_invocation_metadata(given, limit_bytes=LIMIT)
    assert pairs == (("a", b"1"),)
    assert relay_keys == RelayKeys(address="contoso/b", instance="i-1")


def test_dedupe_key_is_the_relays_and_bounded() -> None:
    _, relay_keys = encode_invocation_metadata([("relay-dedupe-key", "k" * 128)], limit_bytes=LIMIT)
    assert relay_keys == RelayKeys(dedupe_key="k" * 128)
    with pytest.raises(UsageError, match="'relay-dedupe-key' takes at most 128 bytes"):
        encode_invocation_metadata([("relay-dedupe-key", "k" * 129)], limit_bytes=LIMIT)


def test_unknown_relay_key_is_refused() -> None:
    with pytest.raises(UsageError, match="metadata key 'relay-adress' is not known to the relay"):
        encode_invocation_metadata([("relay-adress", "x")], limit_bytes=LIMIT)


def test_relay_key_given_twice_is_refused() -> None:
    given = [("relay-address", "a"), ("relay-address", "b")]
    with pytest.raises(UsageError, match="given twice"):
        encode_invocation_metadata(given, limit_bytes=LIMIT)


def test_relay_key_from_a_handler_is_refused() -> None:
    with pytest.raises(UsageError, match="'relay-origin' is the relay's own"):
        encode_metadata([("relay-origin", "host")], limit_bytes=LIMIT)


def test_received_entries_become_named_pairs() -> None:
    entries = [pb.Metadatum(key="a", value=b"1"), pb.Metadatum(key="b-bin", value=b"\xff")]
    first, second = decode_metadata(entries)
    assert (first.key, first.value) == ("a", "1")
    assert second == ("b-bin", b"\xff")


def test_received_text_that_is_not_ascii_does_not_fail() -> None:
    assert decode_metadata([pb.Metadatum(key="a", value=b"\xff")]) == (("a", "\ufffd"),)
