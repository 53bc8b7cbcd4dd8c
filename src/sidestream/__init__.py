"""A streaming proxy for LLM agents that relays every byte untouched and traces from the sidestream."""
