"""Contracts: the descriptors of services, and what tells one version from another."""

from __future__ import annotations


__all__: list[str] = []
