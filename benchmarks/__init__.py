"""
`make bench`: the relay beside direct grpc.aio and NATS request/reply, in real processes.

Source: docs/performance.md has the method; DESIGN.md "How speed is measured".
"""
