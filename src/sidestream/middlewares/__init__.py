"""The middlewares that come with sidestream, one file per YAML name."""
