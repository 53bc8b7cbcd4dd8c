"""The destinations of traces that come with sidestream, one file per YAML name."""
