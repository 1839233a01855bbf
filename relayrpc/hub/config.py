"""
How a hub is run, and what is wrong with a configuration. Pure.

Owns: the settings of a hub in one value, which of them go together, what a listening address is.
Does not own: where settings are read from (cli/config.py), bounds (limits.py).
Source: DESIGN.md "Front doors" and decision 13; docs/reference/configuration.md.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from relayrpc.errors import ConfigError
from relayrpc.hub.addresses import AddressEntry, address_problems
from relayrpc.limits import DEFAULT_LIMITS, Limits, SettingProblem, limit_problems


__all__ = ["HubConfig", "config_problems", "listen_address"]

_PORT_MAX = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """How a hub is run."""

    grpc: str = "127.0.0.1:7350"
    """Where the gRPC door listens, "host:port"; port 0 picks a free one."""
    http: str = "127.0.0.1:7351"
    """Where the HTTP door listens."""
    insecure_listen: bool = False
    """Listen beyond loopback although nobody is asked who they are."""
    tls_cert: str | None = None
    """PEM file with the certificate chain, for both doors."""
    tls_key: str | None = None
    """PEM file with its key."""
    http_public: str | None = None
    """URL of the HTTP door as peers reach it, "wss://relay.example:443", where it differs."""
    store: str | None = None
    """File in which the hub remembers contracts, made where there is none; else in memory."""
    metrics: bool = True
    """Count, and tell whoever reaches the HTTP door at /metrics: addresses, methods, statuses."""
    log_calls: bool = False
    """Log every call, not only those that fail, and hold none of them back."""
    addresses: Mapping[str, AddressEntry] = field(default_factory=dict)
    """What holds at addresses and below them, by address."""
    limits: Limits = DEFAULT_LIMITS
    """Every bound, by its name."""


def config_problems(config: HubConfig) -> list[SettingProblem]:
    """
    Say what keeps a hub from being run so; no file is looked at.

    Returns:
        Problems in the order of the fields, those of limits, named "limits.links_max", last.
    """
    problems = [
        SettingProblem(name, fault)
        for name in ("grpc", "http")
        if (fault := _listen_fault(getattr(config, name), is_anywhere=config.insecure_listen))
    ]
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(config, name) and not getattr(config, other):
            text = f"needs {other} (--{other.replace('_', '-')}) beside it"
            problems.append(SettingProblem(name, text))
    public = config.http_public
    if public and not public.startswith(("ws://", "wss://")):
        problems.append(
            SettingProblem("http_public", f"is {public!r}, which is no ws:// or wss:// URL")
        )
    problems += address_problems(config.addresses)
    problems += [
        dataclasses.replace(
            problem,
            name=f"limits.{problem.name}",
            beside=tuple(f"limits.{name}" for name in problem.beside),
        )
        for problem in limit_problems(config.limits)
    ]
    return problems


def listen_address(text: str) -> tuple[str, int]:
    """
    Take "host:port" apart; an IPv6 address stands in brackets, which are taken off.

    Raises:
        ConfigError: It is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > _PORT_MAX:
        raise ConfigError(f"{text!r} is no host:port, as in 127.0.0.1:7350")
    return host, int(port)


def _listen_fault(text: str, *, is_anywhere: bool) -> str:
    try:
        host, _ = listen_address(text)
    except ConfigError as error:
        return f"cannot be used: {error}"
    if is_anywhere or _is_loopback(host):
        return ""
    return (
        f"is {text!r}, which is beyond loopback, where anyone who reaches the port could call and "
        "serve: this version asks nobody who they are; listen on 127.0.0.1, or set insecure_listen "
        "(--insecure-listen) on a network you trust"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
