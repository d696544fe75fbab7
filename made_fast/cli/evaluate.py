"""The command ``made-fast evaluate``: the negative log-likelihood of a model on rows of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.cli.models import context_of, frames_of, read_model
from made_fast.cli.options import add_separator, add_threads, note, positive, say, shown

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.models.made import MADE
    from made_fast.tables.table import Table

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Report a model's negative log-likelihood in nats a row."
EXAMPLE = """made-fast evaluate mnist.safetensors binarized_mnist.npz --split test
  made-fast evaluate people.safetensors others.csv"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    parser.add_argument(
        "data", metavar="DATA", help="as train takes it: of a table .csv or .parquet; else arrays, or digits"
    )
    text = "which rows of a file that comes in parts (test if left out); of others all are taken"
    parser.add_argument("--split", choices=("train", "valid", "test"), help=text)
    parser.add_argument("--context", type=Path, metavar="FILE", help=".npy with a row for each of the data")
    parser.add_argument("--batch-size", type=positive, default=1000, help="rows at a time")
    add_separator(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the figure."""
    import torch

    from made_fast.tables.table import Table
    from made_fast.training.fitting import interval_of

    model = read_model(args.model)
    if isinstance(model, Table):
        part, found = "", _of_table(model, args)
    else:
        part, found = _of_arrays(model, args)
    with torch.no_grad():
        batches = [each.double().cpu() for each in found]
    if not batches:
        raise ValueError(f"DATA must have at least one row, but {args.data} has none")
    nll = torch.cat(batches)
    if not bool(torch.isfinite(nll).all()):
        why = f"{args.model} has weights that are not finite, or too large"
        raise ValueError(f"the NLL of the {part}rows is {nll.mean().item()}: {why}")
    name = Path(args.data).stem
    say(f"{part}NLL {shown(interval_of(name, nll))} nats (95% interval, {len(nll):,} rows of {name})")
    return 0


def _of_arrays(model: MADE, args: argparse.Namespace) -> tuple[str, Iterator[Tensor]]:
    """Which part of the data is taken, and the NLL of its rows in batches."""
    from made_fast import datasets

    if Path(args.data).suffix in datasets.FRAMES:
        raise ValueError(
            f"{args.model} is a model of arrays, which {args.data} is not: give a .npy, .npz or .amat file"
        )
    parts = datasets.read_parts(args.data)
    if args.split and "rows" in parts:
        raise ValueError(f"--split must be left out: {args.data} does not come in parts")
    part = "rows" if "rows" in parts else args.split or "test"
    rows = parts[part]
    if rows.shape[1] != model.features:
        raise ValueError(f"{args.model} has {model.features} variables, but {Path(args.data).stem} has {rows.shape[1]}")
    context = context_of(model, args.context)
    if context is not None and len(context) != len(rows):
        raise ValueError(f"--context must have a row for each of the {len(rows):,} of the data, got {len(context):,}")
    model.eval()

    def batches() -> Iterator[Tensor]:
        for first in range(0, len(rows), args.batch_size):
            here = slice(first, first + args.batch_size)
            known = None if context is None else context[here]
            yield -model.log_prob(rows[here], known)

    return "" if part == "rows" else f"{part} ", batches()


def _of_table(table: Table, args: argparse.Namespace) -> Iterator[Tensor]:
    """The NLL of the rows of a file, in chunks; columns that the table does not have are passed over."""
    from made_fast import datasets

    for name in ("split", "context"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} must be left out: {args.model} is a table")
    if Path(args.data).suffix not in datasets.FRAMES:
        raise ValueError(f"{args.model} is a table: DATA must end in {' or '.join(datasets.FRAMES)}, got {args.data}")
    file = frames_of(table, Path(args.data), args.separator)
    file.check_names(table.schema.names, "the table")
    others = [name for name in file.names if name not in table.schema.names]
    if others:
        note(f"columns that the table does not have are left out: {', '.join(others)}")
    return (-table.log_prob(chunk.select(table.schema.names)) for chunk in file.chunks())
