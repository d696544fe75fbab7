"""Command lines that run in the process of a test."""

import re
from typing import Any

from made_fast import cli


def call(capsys: Any, *words: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command line."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def one_line(result: tuple[int, str, str], message: str, status: int = 1) -> None:
    """Asserts that it was refused by one line."""
    assert result[0] == status, result
    assert re.fullmatch(r"made-fast: error: [^\n]+\n", result[2]), result[2]
    assert re.search(message, result[2]), result[2]
