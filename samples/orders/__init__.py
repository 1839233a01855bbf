"""The orders sample: a typed contract with a session and a callback, generated and relayed."""

from __future__ import annotations


__all__: list[str] = []
