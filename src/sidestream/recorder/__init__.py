"""The recorder: the trace plane as one small asyncio program, wherever it runs."""
