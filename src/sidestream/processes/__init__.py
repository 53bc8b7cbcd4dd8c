"""`sidestream serve` as a family of processes: a supervisor, its relays and its recorder, and how they talk."""
