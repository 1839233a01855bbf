"""The command line. Each command has a module; `main` puts them together."""

from __future__ import annotations


__all__: list[str] = []
