"""One browser for all tests that a worker runs."""

from surfing import browser

__all__ = ["browser"]
