"""What the commands of ``made-fast`` share: types of options, the option ``--threads``, the check of ``--out``, printing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from made_fast.files import followed

__all__ = ["add_threads", "check_output", "count", "positive", "say", "shown"]


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add ``--threads``, which ``main`` hands to torch."""
    parser.add_argument("--threads", type=positive, help="CPU threads; torch decides if left out")


def positive(text: str) -> int:
    """Type of an option: a whole number of 1 or more."""
    return _integer(text, 1)


def count(text: str) -> int:
    """Type of an option: a whole number of 0 or more."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
    return int(text)


def check_output(path: Path, *suffixes: str) -> None:
    """Refuse a file that cannot be written now rather than after the work."""
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"--out must end in {' or '.join(suffixes)}, got {path}")
    folder = followed(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {folder} does not exist, create it first")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, give the name of a file")
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is no regular file, give the name of one")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission, choose another place")


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text + "\n", end="", flush=True)  # in one piece, so that lines of several processes stay whole


def shown(value: tuple[float, float]) -> str:
    """A figure with its half-width."""
    return f"{value[0]:.3f} ± {value[1]:.3f}"
