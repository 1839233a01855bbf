"""The chat sample: two processes, each host and caller to the other over one link of its own."""

from __future__ import annotations


__all__: list[str] = []
