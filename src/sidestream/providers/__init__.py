"""The LLM APIs sidestream can read, sans-IO: bytes in, facts out."""
