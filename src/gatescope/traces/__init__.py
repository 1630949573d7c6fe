"""Encoding, passes and read-outs: the room that opens traces."""
