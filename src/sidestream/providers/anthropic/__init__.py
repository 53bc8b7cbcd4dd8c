"""Anthropic's Messages API: its streams, its messages, its errors."""
