"""Relay URLs: one table of what is read, one of what is refused and how that is told."""

from __future__ import annotations

import pytest

from relayrpc.carrier.url import RelayURL, parse_url, parse_urls
from relayrpc.errors import ConfigError


def _of(host: str, port: int, pinned: str) -> tuple[str, int, str, str, bool, str]:
    """A pinned gRPC URL with the address "a"."""
    return (host, port, "a", "grpc", False, pinned)


# text, carrier -> printed again; host, port, address, first carrier, may move, pinned
READ = [
    ("relay://hub", "auto", "relay://hub:7350", ("hub", 7350, "", "grpc", True, "auto")),
    ("relay://hub/", "auto", "relay://hub:7350", ("hub", 7350, "", "grpc", True, "auto")),
    ("relays://hub:443/a", "auto", "relays://hub:443/a", ("hub", 443, "a", "grpc", True, "auto")),
    ("relay://1.2.3.4/a", "grpc", "relay://1.2.3.4:7350/a", _of("1.2.3.4", 7350, "grpc")),
    ("relay://hub/a/", "websocket", "relay://hub:7350/a", _of("hub", 7350, "websocket")),
    ("relay://[::1]:7/a", "grpc", "relay://[::1]:7/a", _of("::1", 7, "grpc")),
    ("ws://hub", "auto", "ws://hub:7351", ("hub", 7351, "", "websocket", False, "websocket")),
    ("wss://h/a", "websocket", "wss://h:7351/a", ("h", 7351, "a", "websocket", False, "websocket")),
    ("relay://h/$hub", "auto", "relay://h:7350/$hub", ("h", 7350, "$hub", "grpc", True, "auto")),
    ("RELAY://H/B_", "auto", "relay://h:7350/B_", ("h", 7350, "B_", "grpc", True, "auto")),
]

REFUSED = [
    ("", "auto", "no relay URL"),
    ("hub:7350", "auto", "no relay URL"),
    ("http://hub", "auto", "no relay URL"),
    ("relay://", "auto", "no host"),
    ("relay://:7350", "auto", "no host"),
    ("relay://hub:0", "auto", "port 0"),
    ("relay://hub:70000", "auto", "port out of range"),
    ("relay://hub:x", "auto", "port could not be cast"),
    ("relay://[::1", "auto", "invalid ipv6 url"),
    ("relay://h b/a", "auto", "a host that is neither a name nor an IP address"),
    ("relay://hub//a", "auto", "the address segment ''"),
    ("relay://hub//", "auto", "an empty path segment"),
    ("relay://hub/a//b", "auto", "the address segment ''"),
    ("relay://hub/a/../b", "auto", "the address segment '..'"),
    ("relay://hub/a%20b", "auto", "the address segment 'a%20b'"),
    ("relay://hub/" + "a" * 513, "auto", "a long address"),
    ("relay://hub/a?x=1", "auto", "a query or fragment"),
    ("relay://hub/a#x", "auto", "a query or fragment"),
    ("relay://ada:s3cret@hub/a", "auto", "a user name or password in the URL"),
    ("ws://hub", "grpc", "a WebSocket URL with carrier='grpc'"),
    ("relay://hub", "quic", "unknown carrier 'quic'"),
]


@pytest.mark.parametrize(("text", "carrier", "printed", "fields"), READ)
def test_url_is_read(text: str, carrier: str, printed: str, fields: tuple[object, ...]) -> None:
    url = parse_url(text, carrier=carrier)
    assert str(url) == printed
    read = (url.host, url.port, url.address, url.first_carrier, url.may_move, url.pinned)
    assert read == fields
    assert url.is_secure == printed.startswith(("relays", "wss"))


@pytest.mark.parametrize(("text", "carrier", "complaint"), REFUSED)
def test_url_is_refused(text: str, carrier: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(text, carrier=carrier)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_hubs_are_read_in_order() -> None:
    urls = ["relay://a/x", "ws://b:1/x/", "relay://c/x"]
    assert [str(url) for url in parse_urls(urls)] == [
        "relay://a:7350/x", "ws://b:1/x", "relay://c:7350/x",
    ]  # fmt: skip
    assert parse_urls("relay://a/x") == (parse_url("relay://a/x"),)


@pytest.mark.parametrize(
    ("urls", "complaint"),
    [
        ([], "no hub is named"),
        (["relay://a/x", "relay://b/y"], "cannot use 'relay://b:7350/y' beside 'relay://a:7350/x'"),
        (["relay://a/x", "relay://b"], "another address"),
        (["relays://a/x", "relay://b/x"], "never goes from TLS to plain"),
        (["relay://a/x", "http://b/x"], "no relay URL"),
    ],
)
def test_hubs_that_cannot_take_each_others_place_are_refused(
    urls: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_urls(urls)
    assert complaint in str(caught.value)


def test_refusal_shows_no_secret() -> None:
    for text in ("relay://ada:s3cret@hub/a", "relay://hub/a?key=s3cret", "http://a:s3cret@hub"):
        with pytest.raises(ConfigError) as caught:
            parse_url(text)
        assert "s3cret" not in str(caught.value)


def test_printed_url_reads_the_same() -> None:
    for row in READ:
        url = parse_url(row[2])
        assert isinstance(url, RelayURL)
        assert parse_url(str(url)) == url
