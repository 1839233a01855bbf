"""
From settings to a hub that is ready to listen, and what is said of it before it does.

Owns: the order of it: settings, log, file descriptors, hub. Does not own: any of these (config.py,
observe/logs.py, descriptors.py, gateway/full_hub.py), running the hub (hub.py).
Source: docs/reference/configuration.md.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from relayrpc.cli.check_config import effective_config
from relayrpc.cli.config import load_settings
from relayrpc.cli.descriptors import raise_descriptors
from relayrpc.errors import ConfigError
from relayrpc.gateway.full_hub import full_hub
from relayrpc.hub.capacity import descriptors_wanted, fit_descriptors, size_text, worst_case
from relayrpc.observe.logs import configure_logging, log_event


if TYPE_CHECKING:
    from relayrpc.cli.descriptors import Descriptors
    from relayrpc.cli.flags import Flag
    from relayrpc.hub.server import Hub
    from relayrpc.limits import Limits


__all__ = ["start_up"]

_LOGGER: Final = logging.getLogger("relayrpc.hub")


def start_up(flags: Mapping[str, Flag], *, file: Path | None, is_check: bool) -> Hub | None:
    """
    Make the hub that the settings ask for; nothing listens yet.

    Args:
        flags: Setting -> the flag that was given for it.
        file: The file that was named; None: relayrpc.toml, where there is one.
        is_check: Print the settings instead, and return None.

    Raises:
        ConfigError: Something cannot be used; one line for each.
    """
    settings = load_settings(flags, file=file)
    if settings.problems:
        raise ConfigError("\n".join(settings.problems))
    descriptors = raise_descriptors(descriptors_wanted(settings.config.limits))
    limits = fit_descriptors(
        settings.config.limits, sys.maxsize if descriptors is None else descriptors.now
    )
    try:
        hub = full_hub(dataclasses.replace(settings.config, limits=limits))
    except ConfigError as error:
        # Its files of TLS cannot be used; all else was looked at.
        raise ConfigError(f"{settings.origins.get('tls_cert', 'defaults')}: {error}") from error
    if is_check:
        typer.echo(effective_config(settings, limits, descriptors))
        return None
    configure_logging(form=settings.log_format, level=settings.log_level)
    _log_limits(settings.config.limits, limits, descriptors)
    log_event(_LOGGER, "store chosen", store=settings.config.store or "memory")
    return hub


def _log_limits(limits: Limits, fitted: Limits, descriptors: Descriptors | None) -> None:
    if descriptors is not None and descriptors.now > descriptors.before:
        log_event(
            _LOGGER,
            "descriptors raised",
            descriptors=descriptors.now,
            descriptors_before=descriptors.before,
        )
    count = None if descriptors is None else descriptors.now
    if fitted is not limits:
        log_event(
            _LOGGER,
            "links limited",
            links_max=fitted.links_max,
            handshakes_open_max=fitted.handshakes_open_max,
            descriptors=count,
        )
    worst = worst_case(fitted)
    log_event(
        _LOGGER,
        "limits add up",
        memory=size_text(worst.total_bytes),
        link_memory=size_text(worst.link_bytes),
        links_max=worst.links_max,
        descriptors=count,
    )
