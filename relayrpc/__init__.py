"""
Typed remote procedure calls through a hub: hosts and callers both dial out. Re-exports only.

Source: docs/ARCHITECTURE.md.
"""

from __future__ import annotations


__all__ = ["__version__"]

__version__ = "0.1.0"
