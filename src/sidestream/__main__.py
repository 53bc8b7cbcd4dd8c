"""``python -m sidestream`` is ``sidestream``."""

from sidestream.cli import main

main(prog_name="sidestream")
