"""What an operator sees of a running hub."""

from __future__ import annotations


__all__: list[str] = []
