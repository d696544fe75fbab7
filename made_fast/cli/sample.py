"""The command ``made-fast sample``: its options, this process's share of the rows, the rows in chunks, the picture."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.cli.models import context_of, read_model
from made_fast.cli.options import STDOUT, add_separator, add_threads, check_output, count, note, positive, say
from made_fast.sampling.sharding import sample_rows, shard_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from made_fast.models.made import MADE

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Draw samples into a .csv, .parquet, .npy, .npz or .png file, or to stdout."
EXAMPLE = """made-fast sample people.safetensors -n 1000 --out - --where "age > 30"
  made-fast sample people.safetensors --given holes.csv --out filled.csv
  made-fast sample mnist.safetensors -n 100 --out samples.png
  made-fast sample mnist.safetensors -n 5000000 --out samples.npy --seed 1 --progress
  torchrun --nproc-per-node 4 -m made_fast sample mnist.safetensors -n 5000000 --out samples.npy"""
_CHUNK_VALUES = 1 << 23  # values of samples held at a time when they are written to a file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sample``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    text = "number of rows, 100 if left out; with --given or --context for each row of the file, 1 if left out"
    parser.add_argument("-n", "--num-samples", type=count, metavar="N", help=text)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="of a table .csv or .parquet with its names and types, or .npy (N, columns) of numbers, nan where missing; of "
        "arrays .npy: (N, D) of the smallest type that holds the values, bits as uint8; .npz: the same as member samples, "
        "bits packed by np.packbits(axis=1) with a member n_features; .csv: numbers alone; .png: a grid; -: a CSV to stdout",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same rows")
    parser.add_argument("--first-row", type=count, default=0, help="number of the first row, to go on after a job")
    parser.add_argument("--backend", default="auto", help="see made-fast backends")
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--columns", type=positive, default=10, help="images per line of a .png")
    text = "pixels of an image in a .png; a square if left out"
    parser.add_argument("--image-shape", type=positive, nargs=2, metavar=("H", "W"), help=text)
    parser.add_argument("--context", type=Path, metavar="FILE", help=".npy of contexts, for models that take them")
    add_threads(parser)
    table = parser.add_argument_group("what is known of rows of a table")
    text = "a .csv or .parquet with some columns: its cells are kept, missing ones are filled"
    table.add_argument("--given", type=Path, metavar="FILE", help=text)
    text = "what holds for all rows, see made-fast query --help, without or"
    table.add_argument("--where", metavar="QUERY", help=text)
    text = "drawn for each row, of which one is chosen, where what is known comes after what is not"
    table.add_argument("--candidates", type=positive, default=100, metavar="K", help=text)
    add_separator(table)
    text = "each draws its share of the N rows into a file of its own;\ntorchrun sets both by its environment"
    several = parser.add_argument_group("one of several processes", text)
    several.add_argument("--rank", type=count, metavar="R", help="number of this process, 0 to W - 1")
    several.add_argument("--world-size", type=positive, metavar="W", help="number of processes")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Draw the rows that the options ask for into a file: all of them, or the share of one of several processes."""
    from made_fast.tables.table import Table

    process = _process(args)
    number = 100 if args.num_samples is None else args.num_samples
    rows, out, share = range(number), args.out, ""
    if process is not None:
        shard = f"a shard (rank {process[0]} of {process[1]})"
        if out.suffix == ".png" or out == STDOUT:
            what = "a picture" if out.suffix == ".png" else "stdout"
            raise ValueError(f"--out must end in .npy or .npz for {shard}, got {out}: {what} is not split")
        for name in ("given", "context"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} must be left out for {shard}")
        rows, out = sample_rows(*process, number), shard_path(out, *process)
    if out != STDOUT:
        check_output(out, ".csv", ".parquet", ".npy", ".npz", ".png")
    rows = range(args.first_row + rows.start, args.first_row + rows.stop)
    if process is not None:
        share = f" (rank {process[0]} of {process[1]}, rows {rows.start}:{rows.stop})"
    model = read_model(args.model)
    if isinstance(model, Table):
        from made_fast.cli.tables import sample_table

        written, what = sample_table(model, args, rows, out), f"{len(model.schema.columns)} columns"
    else:
        written, what = _sample_model(model, args, rows, out), f"{model.features} variables"
    if out == STDOUT:
        sys.stdout.flush()
    (note if out == STDOUT else say)(f"{written:,} samples of {what}{share}: {out}")
    return 0


def _sample_model(model: MADE, args: argparse.Namespace, rows: range, out: Path) -> int:
    """Draws rows of a model of arrays into a file; returns how many."""
    import torch

    from made_fast import datasets
    from made_fast.outputs.dtypes import smallest_dtype

    for name in ("given", "where"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} must be left out: {args.model} is no table but a model of arrays")
    if out.suffix == ".parquet":
        raise ValueError(f"--out must end in .npy, .npz, .csv or .png, or be -, for a model of arrays, got {out}")
    context = context_of(model, args.context)
    if out.suffix == ".png":
        if context is not None:
            raise ValueError(f"--out must end in .npy, .npz or .csv with --context, got {out}")
        _sample_picture(model, args, rows)
        return len(rows)
    like = model.parameters_layer.weight.dtype
    dtype = smallest_dtype(model.conditionals, like if like == torch.float64 else torch.float32)
    chunks, number = _chunks(model, args, rows, dtype), len(rows)
    if context is not None:
        each = 1 if args.num_samples is None else args.num_samples
        chunks, number = _chunks_of(model, args, context, each, dtype), each * len(context)
    datasets.write_rows(sys.stdout if out == STDOUT else out, chunks, number, model.features, dtype)
    return number


def _process(args: argparse.Namespace) -> tuple[int, int] | None:
    """Rank and world size, by the options or else by the environment; None where one process draws everything."""
    if args.rank is not None and args.world_size is not None:
        return args.rank, args.world_size
    if args.rank is not None or args.world_size is not None:
        args.usage_error("--rank and --world-size must be given together")
    names = ("RANK", "WORLD_SIZE")
    settings = {name: os.environ[name] for name in names if name in os.environ}
    if not settings:
        return None
    got = ", ".join(f"{name}={text}" for name, text in settings.items())
    if len(settings) < 2 or not all(text.isdecimal() for text in settings.values()):
        needed = "must set RANK and WORLD_SIZE, both to whole numbers, or neither"
        raise ValueError(f"the environment {needed}, got {got}; --rank and --world-size take their place")
    return int(settings["RANK"]), int(settings["WORLD_SIZE"])


def _sample_picture(model: MADE, args: argparse.Namespace, rows: range) -> None:
    import torch

    from made_fast import datasets

    datasets.load_pillow()  # before the work, if it is missing
    if not 1 <= len(rows) <= datasets.IMAGE_LIMIT:
        raise ValueError(f"a .png holds 1 to {datasets.IMAGE_LIMIT:,} images, got -n {len(rows)}: use .npy")
    shape = tuple(args.image_shape or datasets.image_shape(model.features) or (0, 0))
    if shape[0] * shape[1] != model.features:
        raise ValueError(f"--image-shape must be given so that H x W is {model.features}, or use .npy")
    values = model.output.values(model.features)
    if not all(torch.equal(values[0], each) for each in values):
        raise ValueError(
            "a .png shows variables that all take the same values, but those of the model differ: use .npy"
        )
    images = torch.searchsorted(values[0], torch.cat(list(_chunks(model, args, rows, torch.float64))))
    scale = max(1, 56 // max(shape))  # images of about 56 screen pixels
    look = {"columns": args.columns, "scale": scale, "levels": len(values[0])}
    grid = datasets.image_grid(images, (shape[0], shape[1]), **look)
    datasets.write_png(args.out, {"": grid})


def _chunks(model: MADE, args: argparse.Namespace, rows: range, dtype: torch.dtype) -> Iterator[Tensor]:
    """These rows, a bounded number at a time; the row numbers make them the same for any chunk size."""
    from tqdm import tqdm

    sampler, size = model.sampler(), max(1, _CHUNK_VALUES // model.features)
    with tqdm(total=len(rows), unit="row", unit_scale=True, disable=not args.progress) as bar:
        for row in range(rows.start, rows.stop, size):
            number = min(size, rows.stop - row)
            yield sampler.sample(number, seed=args.seed, first_row=row, dtype=dtype, backend=args.backend)
            bar.update(number)


def _chunks_of(
    model: MADE, args: argparse.Namespace, context: Tensor, number: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    """So many rows for each context, one after another, a bounded number at a time."""
    sampler, size = model.sampler(), max(1, _CHUNK_VALUES // (model.features * max(1, number)))
    options = {"seed": args.seed, "dtype": dtype, "backend": args.backend}
    for first in range(0, len(context), size):
        row = args.first_row + first * number
        yield sampler.sample(number, context[first : first + size], first_row=row, **options).flatten(0, 1)
