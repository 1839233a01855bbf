"""The relay process: routing, links, and the doors peers come in by."""
