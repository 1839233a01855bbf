"""The greeter sample: a host that opens no port, and a caller with an ordinary generated stub."""

from __future__ import annotations


__all__: list[str] = []
