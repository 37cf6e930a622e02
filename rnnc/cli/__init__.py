"""The command line.  Each command is a file of its own, imported when it is run."""

from __future__ import annotations

from rnnc.cli.app import main

__all__ = ["main"]
