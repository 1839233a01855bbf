"""
Labels: what a host says of itself, "region=eu", by which others find it. Pure.

Owns: their form. Does not own: who is found by them (hub/selection.py).
Source: protos/relayrpc/v1/link.proto, Announce.labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from relayrpc.errors import ConfigError
from relayrpc.limits import DEFAULT_LIMITS


__all__ = ["label_fault", "parse_labels", "require_labels"]

_NAME: Final = re.compile(r"[A-Za-z0-9._/-]+")
_VALUE: Final = re.compile(r"[A-Za-z0-9._/:@+~-]*")
_SHOWN_CHARS_MAX: Final = 80
# The wire's own, the same on every peer.
_COUNT_MAX: Final = DEFAULT_LIMITS.labels_max
_BYTES_MAX: Final = DEFAULT_LIMITS.label_bytes_max


def label_fault(labels: Mapping[str, str]) -> str:
    """Say what is wrong with the labels of an announcement; empty when nothing is."""
    if len(labels) > _COUNT_MAX:
        return f"{len(labels)} labels, over {_COUNT_MAX}"
    for name, value in labels.items():
        if not (_NAME.fullmatch(name) and len(name) <= _BYTES_MAX):
            return (
                f"{name[:_SHOWN_CHARS_MAX]!r} is no name of a label: letters, digits and ._/-, "
                f"at most {_BYTES_MAX} bytes"
            )
        if not (_VALUE.fullmatch(value) and len(value) <= _BYTES_MAX):
            return (
                f"{value[:_SHOWN_CHARS_MAX]!r} is no value of a label: letters, digits and "
                f"._/:@+~-, at most {_BYTES_MAX} bytes"
            )
    return ""


def require_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """
    Take the labels of a host; None: it has none.

    Raises:
        ConfigError: They cannot be announced.
    """
    taken = dict(labels or {})
    if not all(isinstance(text, str) for label in taken.items() for text in label):
        raise ConfigError("labels are texts, by names that are texts")
    if fault := label_fault(taken):
        raise ConfigError(fault)
    return taken


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """
    Read labels from a command line, each as "region=eu".

    Raises:
        ConfigError: One is none, or two have the same name.
    """
    labels: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"{text[:_SHOWN_CHARS_MAX]!r} is no label: write name=value")
        if name in labels:
            raise ConfigError(f"the label {name[:_SHOWN_CHARS_MAX]!r} is given twice")
        labels[name] = value
    return require_labels(labels)
