"""
What a link runs over right now: a gRPC stream, a WebSocket, a memory pipe. Carriers know nothing of
what is inside.
"""
