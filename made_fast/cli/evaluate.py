"""The command ``made-fast evaluate``: the negative log-likelihood of a model on rows of a data set."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from made_fast.cli.options import add_threads, positive, say, shown

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Report a model's negative log-likelihood in nats a row."
EXAMPLE = "made-fast evaluate mnist.safetensors binarized_mnist.npz --split test"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    parser.add_argument("data", metavar="DATA", help="digits, or a .npz file")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="which rows")
    parser.add_argument("--batch-size", type=positive, default=1000, help="rows at a time")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the figure."""
    from made_fast import datasets, training
    from made_fast.models.made import MADE

    model = MADE.load(args.model)
    data = datasets.load(args.data)
    if data.features != model.features:
        raise ValueError(f"{args.model} has {model.features} variables, but {data.name} has {data.features}")
    rows = data.split(args.split)
    mean, half_width = training.evaluate(model, rows, args.batch_size)
    if not math.isfinite(mean):
        why = f"{args.model} has weights that are not finite, or too large"
        raise ValueError(f"the NLL of the {args.split} rows is {mean}: {why}")
    figure = shown((mean, half_width))
    say(f"{args.split} NLL {figure} nats (95% interval, {len(rows):,} rows of {data.name})")
    return 0
