"""The command ``made-fast query``: the probability of conditions on the columns of a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from made_fast.cli.models import read_model
from made_fast.cli.options import add_threads, positive, say

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Estimate the probability of conditions on the columns of a table, with the error of sampling."
EXAMPLE = """made-fast query people.safetensors "age between 30 and 40"
  made-fast query people.safetensors "city = 'Rome' and (income > 2e4 or income is null)" -n 100000"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``query``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote from a table")
    text = "conditions joined by and, or and brackets: =, !=, <, <=, >, >=, between, in, not in, is null, is not null"
    parser.add_argument("queries", nargs="+", metavar="QUERY", help=text)
    parser.add_argument("-n", "--num-samples", type=positive, default=20_000, metavar="N", help="draws for each query")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Prints an estimate a line."""
    from made_fast.tables.table import Table

    table = read_model(args.model)
    if not isinstance(table, Table):
        raise ValueError(f"{args.model} must hold a table to be asked by names of columns, got a model of arrays")
    say(str(table.probability(args.queries, args.num_samples, seed=args.seed)))
    return 0
