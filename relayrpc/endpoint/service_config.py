"""
A channel's service config, the JSON that gRPC's channels take: what it says of each method.

Owns: reading and checking it by gRPC's rules. Does not own: what a call does with it (channel.py).
Source: grpc/service_config/service_config.proto; gRPC's service_config.md and A6-client-retries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc

from relayrpc.errors import ConfigError


__all__ = [
    "MethodConfig",
    "RetryPolicy",
    "RetryThrottling",
    "ServiceConfig",
    "parse_service_config",
]

# gRPC takes more, and tries no more often.
_ATTEMPTS_MAX: Final = 5
_TOKENS_MAX: Final = 1000
_DURATION: Final = re.compile(r"\d{1,12}(\.\d{1,9})?s")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a failed call is tried again."""

    attempts_max: int
    """Attempts with the first, 2 to 5."""
    backoff_s_min: float
    """Before the first retry."""
    backoff_s_max: float
    backoff_factor: float
    statuses: frozenset[int]
    """After which a retry makes sense; gRPC's numbers."""


@dataclass(frozen=True, slots=True)
class RetryThrottling:
    """How a channel gives up retries when too many calls fail."""

    tokens_max: int
    """1 to 1,000."""
    token_ratio: float
    """What a call that succeeds gives back."""


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What holds for the calls of a method; None: nothing."""

    timeout_s: float | None = None
    """The most a call may take, whatever its own timeout."""
    wait_for_ready: bool | None = None
    """For calls that do not say."""
    request_bytes_max: int | None = None
    response_bytes_max: int | None = None
    retry: RetryPolicy | None = None


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What a channel's service config says."""

    methods: Mapping[str, MethodConfig]
    """By "pkg.Service/Method"; by "pkg.Service" for the rest of a service; by "" for all others."""
    throttling: RetryThrottling | None = None

    def of(self, method: str) -> MethodConfig:
        """Return what holds for "pkg.Service/Method"."""
        methods = self.methods
        found = methods.get(method) or methods.get(method.partition("/")[0]) or methods.get("")
        return found or _NOTHING

    def least_response_bytes(self, bytes_max: int) -> int:
        """Return the least bound on responses of any method, at most `bytes_max`."""
        bounds = (config.response_bytes_max for config in self.methods.values())
        return min([bytes_max, *(bound for bound in bounds if bound is not None)])


_NOTHING: Final = MethodConfig()


def parse_service_config(text: str | bytes) -> ServiceConfig:
    """
    Read the JSON of a service config. What gRPC in Python ignores is ignored, load balancing and
    hedging too.

    Raises:
        ConfigError: It is no JSON, or a value is not what gRPC takes; the text says where.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        _reject("", f"no JSON: {error}")
    _require(isinstance(config, dict), "", "no object")
    method_configs = config.get("methodConfig", [])
    _require(isinstance(method_configs, list), "methodConfig", "no array")
    methods: dict[str, MethodConfig] = {}
    for number, each in enumerate(method_configs):
        where = f"methodConfig[{number}]"
        _require(isinstance(each, dict), where, "no object")
        names = each.get("name", [])
        _require(isinstance(names, list), f"{where}.name", "no array")
        method_config = _read_method(each, where)
        for name in names:
            key = _read_name(name, f"{where}.name")
            _require(key not in methods, f"{where}.name", f"{key or 'every service'!r} twice")
            methods[key] = method_config
    return ServiceConfig(methods, _read(config, "retryThrottling", "", _read_throttling))


def _read_name(name: Any, where: str) -> str:
    _require(isinstance(name, dict), where, "no object")
    service = name.get("service") or ""
    method = name.get("method") or ""
    _require(isinstance(service, str) and isinstance(method, str), where, "no text")
    _require(bool(service) or not method, where, "a method without its service")
    return f"{service}/{method}" if method else service


def _read_method(config: dict[str, Any], where: str) -> MethodConfig:
    return MethodConfig(
        timeout_s=_read(config, "timeout", where, _read_duration),
        wait_for_ready=_read(config, "waitForReady", where, _read_bool),
        request_bytes_max=_read(config, "maxRequestMessageBytes", where, _read_bytes),
        response_bytes_max=_read(config, "maxResponseMessageBytes", where, _read_bytes),
        retry=_read(config, "retryPolicy", where, _read_retry),
    )


def _read_retry(policy: Any, where: str) -> RetryPolicy:
    _require(isinstance(policy, dict), where, "no object")
    attempts = _read_due(policy, "maxAttempts", where, _read_count)
    _require(attempts >= 2, f"{where}.maxAttempts", "less than 2")
    statuses = _read_due(policy, "retryableStatusCodes", where, _read_statuses)
    return RetryPolicy(
        attempts_max=min(attempts, _ATTEMPTS_MAX),
        backoff_s_min=_read_due(policy, "initialBackoff", where, _read_backoff),
        backoff_s_max=_read_due(policy, "maxBackoff", where, _read_backoff),
        backoff_factor=_read_due(policy, "backoffMultiplier", where, _read_ratio),
        statuses=statuses,
    )


def _read_throttling(throttling: Any, where: str) -> RetryThrottling:
    _require(isinstance(throttling, dict), where, "no object")
    tokens = _read_due(throttling, "maxTokens", where, _read_count)
    _require(0 < tokens <= _TOKENS_MAX, f"{where}.maxTokens", f"not 1 to {_TOKENS_MAX}")
    return RetryThrottling(tokens, _read_due(throttling, "tokenRatio", where, _read_ratio))


def _read_statuses(names: Any, where: str) -> frozenset[int]:
    _require(isinstance(names, list) and bool(names), where, "no array of status names")
    codes = grpc.StatusCode.__members__
    for name in names:
        _require(name in codes, where, f"{name!r} is no status")
    return frozenset(codes[name].value[0] for name in names)


def _read(config: dict[str, Any], key: str, where: str, read: Callable[[Any, str], Any]) -> Any:
    """Read a value that may be left out; None: it is."""
    value = config.get(key)
    return None if value is None else read(value, f"{where}.{key}" if where else key)


def _read_due(config: dict[str, Any], key: str, where: str, read: Callable[[Any, str], Any]) -> Any:
    """Read a value that must be there."""
    _require(config.get(key) is not None, f"{where}.{key}", "missing")
    return read(config[key], f"{where}.{key}")


def _read_duration(value: Any, where: str) -> float:
    is_duration = isinstance(value, str) and _DURATION.fullmatch(value) is not None
    _require(is_duration, where, 'no duration like "1.5s"')
    return float(value[:-1])


def _read_backoff(value: Any, where: str) -> float:
    backoff_s = _read_duration(value, where)
    _require(backoff_s > 0, where, "no time at all")
    return backoff_s


def _read_bool(value: Any, where: str) -> bool:
    _require(isinstance(value, bool), where, "neither true nor false")
    return bool(value)


def _read_bytes(value: Any, where: str) -> int:
    """Read a count of bytes; as JSON has it for 64 bits it may be a string."""
    return _read_count(int(value) if isinstance(value, str) and value.isdecimal() else value, where)


def _read_count(value: Any, where: str) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    _require(is_count, where, "no whole number")
    return int(value)


def _read_ratio(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and value > 0, where, "no number above 0")
    return float(value)


def _require(is_right: bool, where: str, problem: str) -> None:
    if not is_right:
        _reject(where, problem)


def _reject(where: str, problem: str) -> NoReturn:
    place = f" at {where}" if where else ""
    raise ConfigError(f"cannot use the service config{place}: {problem}")
