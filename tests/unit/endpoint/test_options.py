"""Goal: gRPC's options mean on a link what they mean to gRPC. Method: options in, settings out."""

from __future__ import annotations

from typing import Any

import pytest

from relayrpc import __version__
from relayrpc.endpoint.options import EndpointOptions, read_options
from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS, MESSAGE_BYTES_UNLIMITED


def read(*options: tuple[Any, Any]) -> EndpointOptions:
    return read_options(options, DEFAULT_LIMITS)


@pytest.mark.parametrize("options", [None, (), [("grpc.keepalive_time_ms", 1), ("x", None)]])
def test_options_that_mean_nothing_are_ignored(options: Any) -> None:
    assert read_options(options, DEFAULT_LIMITS) == EndpointOptions(DEFAULT_LIMITS)


def test_message_bounds_are_read() -> None:
    options = read(("grpc.max_receive_message_length", 10), (b"grpc.max_send_message_length", 0))
    assert options.limits.message_bytes_max == 10
    assert options.limits.message_sent_bytes_max == 0


@pytest.mark.parametrize("value", [-1, -2, 2**40])
def test_message_bounds_may_be_none(value: int) -> None:
    options = read(("grpc.max_send_message_length", value))
    assert options.limits.message_sent_bytes_max == MESSAGE_BYTES_UNLIMITED


def test_option_given_twice_counts_as_given_last() -> None:
    name = "grpc.max_send_message_length"
    assert read((name, 1), (name, 2)).limits.message_sent_bytes_max == 2


@pytest.mark.parametrize(
    ("options", "agent"),
    [
        ([("grpc.primary_user_agent", "me/1")], f"me/1 relayrpc/{__version__}"),
        ([("grpc.secondary_user_agent", b"too")], f"relayrpc/{__version__} too"),
        (
            [("grpc.primary_user_agent", "me/1"), ("grpc.secondary_user_agent", "too")],
            f"me/1 relayrpc/{__version__} too",
        ),
    ],
)
def test_user_agent_is_put_together(options: Any, agent: str) -> None:
    assert read(*options).user_agent == agent


def test_names_of_the_service_are_read() -> None:
    override = ("grpc.ssl_target_name_override", "svc")
    assert read(override).server_name == read(override).authority == "svc"
    both = read(("grpc.default_authority", "svc:443"), override)
    assert (both.server_name, both.authority) == ("svc", "svc:443")


def test_service_config_is_read() -> None:
    text = '{"methodConfig": [{"name": [{}], "timeout": "1s"}]}'
    config = read(("grpc.service_config", text)).service_config
    assert config is not None
    assert config.of("a.B/M").timeout_s == 1.0


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("grpc.max_send_message_length", "1"), "takes a whole number of bytes, not '1'"),
        (("grpc.max_receive_message_length", None), "takes a whole number of bytes, not None"),
        (("grpc.primary_user_agent", "a\n"), "takes printable ASCII text"),
        (("grpc.default_authority", 5), "takes printable ASCII text, not 5"),
        (("grpc.service_config", {}), "takes JSON text"),
        (("grpc.service_config", "{"), "cannot use the service config: no JSON"),
    ],
)
def test_value_that_cannot_be_used_is_refused(option: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(option)
