"""The data plane: bytes only.

It never parses a body, decompresses, touches a disk, or awaits anything but the two sockets.
"""
