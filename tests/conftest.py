"""What holds for every test: none fails because a machine was slow."""

from __future__ import annotations

import hypothesis


hypothesis.settings.register_profile("relayrpc", deadline=None)
hypothesis.settings.load_profile("relayrpc")
