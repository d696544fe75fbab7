"""The command ``made-fast backends``: what can be used here, and how the compiled module was built."""

from __future__ import annotations

import argparse

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Show which backends can be used here, and how the compiled one was built."
EXAMPLE = "made-fast backends"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``backends``."""
    parser.add_argument("--outputs", action="store_true", help="show what each output can do, and on which backends")


def run(args: argparse.Namespace) -> int:
    """Prints the table of backends, or that of outputs."""
    from made_fast import backends, build_config

    if args.outputs:
        from made_fast.sampling.capabilities import markdown

        print(markdown())
        return 0
    rows = backends.table()
    width = max(len(row.name) for row in rows)
    print(f"{'name':<{width}}  usable  why not")
    for row in rows:
        print(f"{row.name:<{width}}  {'yes' if row.usable else 'no':<6}  {row.reason or '-'}")
    print()
    for key, value in build_config().items():
        print(f"{key}: {value}")
    return 0
