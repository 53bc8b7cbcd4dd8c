"""Kills, outages, reloads and full disks under load, and what is left of every exchange.

``python -m chaos`` (``make chaos``) runs the long version of everything and prints tables; tests/behaviours run short
versions of the same.
"""
