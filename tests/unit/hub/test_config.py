"""
What keeps a hub from being run as it is told to. Goal: each contradiction is named before anything
listens. Method: a configuration a case.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relayrpc.errors import ConfigError
from relayrpc.hub.config import HubConfig, config_problems, listen_address
from relayrpc.hub.server import Hub
from relayrpc.limits import DEFAULT_LIMITS


def problems(**values: Any) -> list[tuple[str, str]]:
    return [(each.name, each.text) for each in config_problems(HubConfig(**values))]


def test_defaults_can_be_run() -> None:
    assert not problems()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7350", ("127.0.0.1", 7350)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:7350", ("::1", 7350)),
    ],
)
def test_listening_address_is_taken_apart(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address
    assert not problems(grpc=text)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", ":7350", "127.0.0.1:", "127.0.0.1:seven", "127.0.0.1:65536", "a:-1"]
)
def test_what_is_no_listening_address_is_named(text: str) -> None:
    reason = f"cannot be used: {text!r} is no host:port, as in 127.0.0.1:7350"
    assert problems(http=text) == [("http", reason)]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "relay.example"])
def test_beyond_loopback_leave_is_needed(host: str) -> None:
    ((name, text),) = problems(grpc=f"{host}:0")
    assert name == "grpc"
    assert "--insecure-listen" in text
    assert not problems(grpc=f"{host}:0", insecure_listen=True)


@pytest.mark.parametrize(("given", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_certificate_and_key_go_together(given: str, other: str) -> None:
    flag = "--" + other.replace("_", "-")
    assert problems(**{given: "f.pem"}) == [(given, f"needs {other} ({flag}) beside it")]


def test_public_url_has_to_be_a_websockets() -> None:
    ((name, text),) = problems(http_public="https://relay.example")
    assert name == "http_public"
    assert text == "is 'https://relay.example', which is no ws:// or wss:// URL"
    assert not problems(http_public="wss://relay.example")


def test_limits_are_looked_at_too() -> None:
    limits = replace(DEFAULT_LIMITS, calls_open_max=10_000)
    (problem,) = config_problems(HubConfig(limits=limits))
    assert problem.name == "limits.link_budget_bytes"
    assert problem.beside == ("limits.calls_open_max",)


def test_hub_is_not_made_of_what_cannot_be_run() -> None:
    limits = replace(DEFAULT_LIMITS, links_max=0)
    with pytest.raises(ConfigError, match=r"^http cannot .*; limits\.links_max is 0, and must be"):
        Hub(HubConfig(http="nowhere", limits=limits))
