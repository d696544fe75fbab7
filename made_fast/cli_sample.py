"""The command ``made-fast sample``: its options, the rows in chunks, the picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from made_fast.cli_options import add_threads, check_output, count, positive, say

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.nn import MADE
    from made_fast.sampler import Sampler

_CHUNK_VALUES = 1 << 23  # values of samples held at a time when they are written to a file


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sample``."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    parser.add_argument("-n", "--num-samples", type=count, default=100, metavar="N", help="number of rows")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=".npy: (N, D) uint8; .npz: member samples, packed by np.packbits(axis=1), and n_features; .png: a grid",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same rows")
    parser.add_argument("--first-row", type=count, default=0, help="number of the first row, to split a job by rows")
    parser.add_argument("--backend", default="auto", help="see made-fast backends")
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--columns", type=positive, default=10, help="images per line of a .png")
    text = "pixels of an image in a .png; a square if left out"
    parser.add_argument("--image-shape", type=positive, nargs=2, metavar=("H", "W"), help=text)
    add_threads(parser)


def sample(args: argparse.Namespace) -> int:
    """Draw the rows that the options ask for into a file."""
    from made_fast import datasets
    from made_fast.nn import MADE

    check_output(args.out, ".npz", ".npy", ".png")
    model = MADE.load(args.model)
    if args.out.suffix == ".png":
        _sample_picture(model, args)
    else:
        datasets.write_rows(args.out, _chunks(model.sampler(), args), args.num_samples, model.features)
    say(f"{args.num_samples:,} samples of {model.features} variables: {args.out}")
    return 0


def _sample_picture(model: MADE, args: argparse.Namespace) -> None:
    import torch

    from made_fast import datasets

    datasets.load_pillow()  # before the work, if it is missing
    if not 1 <= args.num_samples <= datasets.IMAGE_LIMIT:
        raise ValueError(f"a .png holds 1 to {datasets.IMAGE_LIMIT:,} images, got -n {args.num_samples}: use .npy")
    shape = tuple(args.image_shape or datasets.image_shape(model.features) or (0, 0))
    if shape[0] * shape[1] != model.features:
        raise ValueError(f"--image-shape must be given so that H x W is {model.features}, or use .npy")
    rows = torch.cat(list(_chunks(model.sampler(), args)))
    scale = max(1, 56 // max(shape))  # images of about 56 screen pixels
    grid = datasets.image_grid(rows, (shape[0], shape[1]), columns=args.columns, scale=scale)
    datasets.write_png(args.out, {"": grid})


def _chunks(sampler: Sampler, args: argparse.Namespace) -> Iterator[Tensor]:
    """The rows asked for, a bounded number at a time; the row numbers make them the same for any chunk size."""
    import torch
    from tqdm import tqdm

    size = max(1, _CHUNK_VALUES // sampler.features)
    with tqdm(total=args.num_samples, unit="row", unit_scale=True, disable=not args.progress) as bar:
        for start in range(0, args.num_samples, size):
            number, row = min(size, args.num_samples - start), args.first_row + start
            yield sampler.sample(number, seed=args.seed, first_row=row, dtype=torch.uint8, backend=args.backend)
            bar.update(number)
