"""What ``sidestream demo`` runs: a scripted provider, a scripted agent, and the gateway between them.

Everything is real but the model: three servers on loopback, the gateway in a process of its own, sockets in between. No
key, no network, and nothing that the base installation lacks.
"""


class DemoFailed(Exception):
    """The demo cannot go on; its text says at what."""
