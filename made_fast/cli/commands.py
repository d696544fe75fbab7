"""The command ``made-fast``: demo, train, evaluate, sample, query, doctor, backends.

Each command imports what it needs when it runs, so that ``--help`` waits for nothing.
A mistake of the user ends in one line on stderr; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from made_fast import interrupts
from made_fast.cli import backends, demo, doctor, evaluate, query, sample, train

__all__ = ["main"]

_SIGPIPE = 13  # as shells count it, on every system

# A command is a file with TEXT, EXAMPLE, ``add_options(parser)`` and ``run(args) -> status``; its name is that of the file.
COMMANDS = (demo, train, evaluate, sample, query, doctor, backends)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the words after ``made-fast``; those of the process by default.

    Returns:
        The exit status: 0, or 1 after an error, 130 after Ctrl-C, 143 after SIGTERM, 141 if nobody reads what is printed any
        more. A usage error exits with 2 by itself.
    """
    with interrupts.noticed() as came:
        try:
            return _run(argv)
        except BrokenPipeError:  # who read what was printed has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + _SIGPIPE
        except BaseException:
            if not came:
                raise
        interrupts.say_interrupted()  # after the exception, which held progress bars open, has gone
        return 128 + came[0]


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if getattr(args, "threads", None) is not None:
            import torch

            torch.set_num_threads(args.threads)
        return int(args.run(args))
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _of_memory(error):
            raise
        told = " ".join(str(error).split())
        plain = isinstance(error, MemoryError) and told  # our own says how much it would take
        text = "there is not enough memory for this" if _of_memory(error) and not plain else told
        print(f"made-fast: error: {text}", file=sys.stderr)
        return 1


def _of_memory(error: Exception) -> bool:
    """Whether an error is that of an allocation; torch's own is a RuntimeError."""
    told = ("allocate memory", "out of memory", "Storage size calculation overflowed", "numel: integer multiplication")
    return isinstance(error, MemoryError) or any(words in str(error) for words in told)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"made-fast: error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from made_fast import __version__

        print(f"made-fast {__version__}")
        sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="made-fast", description="Train a MADE on tables or arrays, draw from it quickly, and ask it."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rsplit(".", 1)[-1]
        subparser = commands.add_parser(
            name,
            help=command.TEXT,
            description=command.TEXT,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=_Formatter,
        )
        subparser.set_defaults(run=command.run)
        command.add_options(subparser)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows examples as they are, and the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        return action.help if silent else f"{action.help} (default: %(default)s)"
