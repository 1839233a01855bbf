"""
Generated protobuf code of the relay's own contracts; `make gen` writes it, a test checks it for drift.

Source: protos/relayrpc/v1/.
"""
