"""What the commands of ``made-fast`` share: types of options, the option ``--threads``, the check of ``--out``, printing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.files import followed

if TYPE_CHECKING:
    from made_fast.outputs.output import Output

__all__ = [
    "STDOUT",
    "add_separator",
    "add_threads",
    "check_output",
    "count",
    "note",
    "output_of",
    "positive",
    "say",
    "shares",
    "shown",
]

STDOUT = Path("-")  # as --out


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add ``--threads``, which ``main`` hands to torch."""
    parser.add_argument("--threads", type=positive, help="CPU threads; torch decides if left out")


def add_separator(parser: argparse._ActionsContainer) -> None:
    """Add ``--separator`` of files that are read."""
    parser.add_argument("--separator", default=",", metavar="SIGN", help="between the cells of a .csv")


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


def shares(text: str) -> Sequence[float]:
    """Type of an option: shares of rows to train, to validate and to test, which add up to 1."""
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3 or not all(0 < each < 1 for each in found) or abs(sum(found) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"must be three positive numbers that add up to 1, like 0.8,0.1,0.1, got {text!r}"
        )
    return found


def output_of(text: str) -> Output:
    """The output of a name with its arguments: ``bernoulli``, ``categorical:4``, ``mixture_of_logistics:5,256``.

    Raises:
        ValueError: there is none of that name, or its arguments do not fit.
    """
    from made_fast.outputs.kinds import OUTPUTS

    name, colon, listed = text.partition(":")
    known = [each for each in OUTPUTS if each != "mixed"]
    if name not in known:
        raise ValueError(f"--output must be one of {', '.join(known)}, got {text!r}")
    try:
        numbers = [int(each) if each.strip().isdecimal() else float(each) for each in listed.split(",") if colon]
        made: Callable[..., Output] = OUTPUTS[name]
        return made(*numbers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--output {name} must have numbers that fit after a colon, got {text!r}: {error}") from None


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


def note(text: str) -> None:
    """Print a line beside what was asked for, to stderr."""
    print(text + "\n", end="", flush=True, file=sys.stderr)


def shown(value: tuple[float, float]) -> str:
    """A figure with its half-width."""
    return f"{value[0]:.3f} ± {value[1]:.3f}"
