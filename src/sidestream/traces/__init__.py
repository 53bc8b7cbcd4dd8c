"""The trace plane: what was captured becomes a trace. Nothing here can reach a relayed byte."""
