"""
Deadlines that pass at the right moment on a machine of any speed.

A short one may pass on a busy machine before the other side has begun, and a long one would have
every test wait. So a test tries a short one and, where that has passed too early, a longer one.
"""

from __future__ import annotations

from typing import Final


__all__ = ["DEADLINES_S"]

DEADLINES_S: Final = (0.1, 0.5, 2.0, 8.0, 30.0)
"""To be tried in this order, until one passes where the test wants it to."""
