"""
The link protocol's pure core: bytes of batches in, events and batches out. No I/O, no clock, no
randomness.
"""
