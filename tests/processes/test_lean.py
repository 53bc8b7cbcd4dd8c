"""What runs for long is small, and what plugins import is there all the same."""

from __future__ import annotations

import subprocess
import sys


def test_structlog_comes_without_rich_and_rich_can_be_imported_afterwards() -> None:
    program = """
import sys
from sidestream.processes import lean
lean.import_structlog()
print("structlog" in sys.modules, "rich" in sys.modules)
import rich.console
print(rich.console.Console is not None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ["True", "False", "True"] == done.stdout.split()
