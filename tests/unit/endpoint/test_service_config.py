"""
Goal: a service config means to a relay's channel what it means to gRPC's, and a wrong one is
refused with the place named.

Method: JSON in, what it says of methods out; each wrong one was refused by grpcio 1.85 too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayrpc.endpoint.service_config import (
    MethodConfig,
    RetryPolicy,
    RetryThrottling,
    parse_service_config,
)
from relayrpc.errors import ConfigError


RETRY = {
    "maxAttempts": 9,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
}


def of_all(**config: Any) -> str:
    """A config whose one method config is for every method."""
    return json.dumps({"methodConfig": [{"name": [{}], **config}]})


def test_most_exact_name_counts() -> None:
    config = parse_service_config(
        json.dumps(
            {
                "methodConfig": [
                    {"name": [{}], "timeout": "1s"},
                    {"name": [{"service": "a.B"}, {"service": "a.C"}], "timeout": "2s"},
                    {"name": [{"service": "a.B", "method": "M"}], "timeout": "3.5s"},
                ]
            }
        )
    )
    timeouts = [config.of(method).timeout_s for method in ("a.B/M", "a.B/N", "a.C/M", "a.D/M")]
    assert timeouts == [3.5, 2, 2, 1]


def test_method_without_a_config_has_an_empty_one() -> None:
    config = parse_service_config('{"methodConfig": [{"timeout": "1s"}], "unknown": 1}')
    assert config.of("a.B/M") == MethodConfig()
    assert config.throttling is None


def test_everything_is_read() -> None:
    config = parse_service_config(
        of_all(
            timeout="0.25s",
            waitForReady=False,
            maxRequestMessageBytes=5,
            maxResponseMessageBytes="6",
            retryPolicy=RETRY,
            hedgingPolicy="not known to gRPC in Python",
        )
    )
    assert config.of("a.B/M") == MethodConfig(
        timeout_s=0.25,
        wait_for_ready=False,
        request_bytes_max=5,
        response_bytes_max=6,
        retry=RetryPolicy(
            attempts_max=5,
            backoff_s_min=0.1,
            backoff_s_max=1.0,
            backoff_factor=2.0,
            statuses=frozenset({14, 10}),
        ),
    )


def test_retry_throttling_is_read() -> None:
    config = parse_service_config(b'{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}}')
    assert config.throttling == RetryThrottling(tokens_max=10, token_ratio=0.1)


WRONG = {
    "{": "no JSON",
    "[]": "no object",
    '{"methodConfig": 5}': "at methodConfig: no array",
    '{"methodConfig": [5]}': r"at methodConfig\[0\]: no object",
    '{"methodConfig": [{"name": 5}]}': r"at methodConfig\[0\].name: no array",
    '{"methodConfig": [{"name": [5]}]}': "no object",
    '{"methodConfig": [{"name": [{"service": 5}]}]}': "no text",
    '{"methodConfig": [{"name": [{"method": "M"}]}]}': "a method without its service",
    '{"methodConfig": [{"name": [{"service": "a"}, {"service": "a"}]}]}': "'a' twice",
    '{"methodConfig": [{"name": [{}, {}]}]}': "'every service' twice",
    of_all(timeout="5"): r"at methodConfig\[0\].timeout: no duration",
    of_all(timeout=5): "no duration",
    of_all(timeout="-1s"): "no duration",
    of_all(waitForReady="x"): "neither true nor false",
    of_all(maxRequestMessageBytes=-1): "no whole number",
    of_all(maxResponseMessageBytes="x"): "no whole number",
    of_all(maxResponseMessageBytes=True): "no whole number",
    of_all(retryPolicy=5): "no object",
    of_all(retryPolicy={**RETRY, "maxAttempts": 1}): "maxAttempts: less than 2",
    of_all(retryPolicy={**RETRY, "maxAttempts": None}): "maxAttempts: missing",
    of_all(retryPolicy={**RETRY, "initialBackoff": "0s"}): "initialBackoff: no time at all",
    of_all(retryPolicy={**RETRY, "backoffMultiplier": 0}): "no number above 0",
    of_all(retryPolicy={**RETRY, "retryableStatusCodes": []}): "no array of status names",
    of_all(retryPolicy={**RETRY, "retryableStatusCodes": ["NONE"]}): "'NONE' is no status",
    '{"retryThrottling": 5}': "at retryThrottling: no object",
    '{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}': "not 1 to 1000",
    '{"retryThrottling": {"maxTokens": 1, "tokenRatio": "x"}}': "no number above 0",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_wrong_config_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        parse_service_config(text)
    assert str(caught.value).startswith("cannot use the service config")
