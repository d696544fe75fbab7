"""The command ``made-fast sample``: its options, this process's share of the rows, the rows in chunks, the picture."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.cli.options import add_threads, check_output, count, positive, say
from made_fast.sampling.sharding import sample_rows, shard_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from made_fast.models.made import MADE
    from made_fast.sampling.ensemble_sampler import EnsembleSampler
    from made_fast.sampling.sampler import Sampler

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Draw samples into a .npz, .npy or .png file."
EXAMPLE = """made-fast sample mnist.safetensors -n 100 --out samples.png
  made-fast sample mnist.safetensors -n 5000000 --out samples.npy --seed 1 --progress
  torchrun --nproc-per-node 4 -m made_fast sample mnist.safetensors -n 5000000 --out samples.npy"""
_CHUNK_VALUES = 1 << 23  # values of samples held at a time when they are written to a file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sample``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    parser.add_argument("-n", "--num-samples", type=count, default=100, metavar="N", help="number of rows")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=".npy: (N, D) of the smallest type that holds the values, bits as uint8; .npz: the same as member samples, bits "
        "packed by np.packbits(axis=1) with a member n_features; .png: a grid",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same rows")
    parser.add_argument("--first-row", type=count, default=0, help="number of the first row, to go on after a job")
    parser.add_argument("--backend", default="auto", help="see made-fast backends")
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--columns", type=positive, default=10, help="images per line of a .png")
    text = "pixels of an image in a .png; a square if left out"
    parser.add_argument("--image-shape", type=positive, nargs=2, metavar=("H", "W"), help=text)
    add_threads(parser)
    text = "each draws its share of the N rows into a file of its own;\ntorchrun sets both by its environment"
    several = parser.add_argument_group("one of several processes", text)
    several.add_argument("--rank", type=count, metavar="R", help="number of this process, 0 to W - 1")
    several.add_argument("--world-size", type=positive, metavar="W", help="number of processes")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Draw the rows that the options ask for into a file: all of them, or the share of one of several processes."""
    import torch

    from made_fast import datasets
    from made_fast.models.made import MADE
    from made_fast.outputs.dtypes import smallest_dtype

    process = _process(args)
    rows, out, share = range(args.num_samples), args.out, ""
    if process is not None:
        if out.suffix == ".png":
            shard = f"a shard (rank {process[0]} of {process[1]})"
            raise ValueError(f"--out must end in .npy or .npz for {shard}, got {out}: a picture is not split")
        rows, out = sample_rows(*process, args.num_samples), shard_path(out, *process)
    check_output(out, ".npz", ".npy", ".png")
    rows = range(args.first_row + rows.start, args.first_row + rows.stop)
    if process is not None:
        share = f" (rank {process[0]} of {process[1]}, rows {rows.start}:{rows.stop})"
    model = MADE.load(args.model)
    if out.suffix == ".png":
        _sample_picture(model, args, rows)
    else:
        like = model.parameters_layer.weight.dtype
        dtype = smallest_dtype(model.conditionals, like if like == torch.float64 else torch.float32)
        datasets.write_rows(out, _chunks(model.sampler(), args, rows, dtype), len(rows), model.features, dtype)
    say(f"{len(rows):,} samples of {model.features} variables{share}: {out}")
    return 0


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
    if not 1 <= args.num_samples <= datasets.IMAGE_LIMIT:
        raise ValueError(f"a .png holds 1 to {datasets.IMAGE_LIMIT:,} images, got -n {args.num_samples}: use .npy")
    shape = tuple(args.image_shape or datasets.image_shape(model.features) or (0, 0))
    if shape[0] * shape[1] != model.features:
        raise ValueError(f"--image-shape must be given so that H x W is {model.features}, or use .npy")
    values = model.output.values(model.features)
    if not all(torch.equal(values[0], each) for each in values):
        raise ValueError(
            "a .png shows variables that all take the same values, but those of the model differ: use .npy"
        )
    images = torch.searchsorted(values[0], torch.cat(list(_chunks(model.sampler(), args, rows, torch.float64))))
    scale = max(1, 56 // max(shape))  # images of about 56 screen pixels
    look = {"columns": args.columns, "scale": scale, "levels": len(values[0])}
    grid = datasets.image_grid(images, (shape[0], shape[1]), **look)
    datasets.write_png(args.out, {"": grid})


def _chunks(
    sampler: Sampler | EnsembleSampler, args: argparse.Namespace, rows: range, dtype: torch.dtype
) -> Iterator[Tensor]:
    """These rows, a bounded number at a time; the row numbers make them the same for any chunk size."""
    from tqdm import tqdm

    size = max(1, _CHUNK_VALUES // sampler.features)
    with tqdm(total=len(rows), unit="row", unit_scale=True, disable=not args.progress) as bar:
        for row in range(rows.start, rows.stop, size):
            number = min(size, rows.stop - row)
            yield sampler.sample(number, seed=args.seed, first_row=row, dtype=dtype, backend=args.backend)
            bar.update(number)
