"""Other protocols at the hub's doors, each turned into calls through the one router."""
