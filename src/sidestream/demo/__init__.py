"""What ``sidestream demo`` runs: a scripted provider, a scripted agent, and the gateway between them, with its viewer.

Everything is real but the model: two servers on loopback, the gateway in processes of its own, sockets in between. No
key, no network, and nothing that the base installation lacks.
"""


class DemoFailed(Exception):
    """The demo cannot go on; its text says at what."""
