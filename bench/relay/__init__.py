"""What the relay costs, beside nginx and others: CPU, latency and memory per request, stream and event.

``python -m bench.relay`` (``make bench``) runs it; README.md beside this folder says how it measures. Linux only.
"""
