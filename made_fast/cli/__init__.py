"""The command line, a command a file; ``commands.py`` puts them together."""

from made_fast.cli.commands import main

__all__ = ["main"]
