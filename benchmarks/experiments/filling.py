"""Samples being filled in variable by variable, as an animation.

A pixel is grey until it is drawn. Of an ensemble of masks each image has the order of its own mask.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from made_fast import MADE, masks
from made_fast.datasets import image_grid, image_shape, load_pillow
from made_fast.masks import masks_of_rows

TEXT = "the animation of the README: samples being filled in variable by variable"
QUICK = {"lines": 2, "columns": 3, "frames": 8, "scale": 1, "out": Path("out/quick")}
PALETTE = (246, 248, 250, 208, 215, 222, 31, 35, 40)  # paper, not yet drawn, ink: red, green, blue of each
FRAME_MS, LAST_MS = 90, 3000


def steps_of(model: MADE, count: int, seed: int) -> Tensor:
    """At which step each variable of each image is drawn, int64 (n, D)."""
    if model.ensemble is None:
        return masks.rank_of(model.order).expand(count, -1)
    own = masks_of_rows(seed, torch.arange(count), len(model.ensemble.evaluated))
    return torch.stack([masks.rank_of(model.order_of(int(mask))) for mask in own])


def frames_of(model: MADE, *, lines: int, columns: int, frames: int, scale: int, seed: int) -> list[Any]:
    """Grids of images as palette numbers, (height, width) uint8: 0 paper, 1 not yet drawn, 2 ink."""
    shape = image_shape(model.features)
    if shape is None:
        raise SystemExit(f"--model must be one of square images, 8 x 8 or larger, got D = {model.features}")
    count = lines * columns
    drawn, steps = model.sample(count, seed=seed, dtype=torch.uint8), steps_of(model, count, seed)
    grids = []
    for frame in range(frames + 1):
        known = steps < round(frame * model.features / frames)
        layers = [  # image_grid draws 1 as 0 and 0 as 255, on a grey ground
            image_grid(each.to(torch.uint8), shape, columns=columns, scale=scale) for each in (drawn * known, ~known)
        ]
        ink, hidden = (layer == 0 for layer in layers)
        grids.append(np.where(hidden, 1, np.where(ink, 2, 0)).astype(np.uint8))
    return grids


def write_gif(path: Path, grids: Sequence[Any]) -> None:
    """Writes the animation, whole or not at all; it runs for ever and rests on the last frame."""
    image, _, _ = load_pillow()
    pictures = []
    for grid in grids:
        picture = image.fromarray(grid, mode="P")
        picture.putpalette(PALETTE)
        pictures.append(picture)
    durations = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    partial = path.with_name(path.name + ".part")
    try:
        more = {"append_images": pictures[1:], "duration": durations, "loop": 0, "optimize": True}
        pictures[0].save(partial, format="GIF", save_all=True, **more)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="FILE", help="that made-fast train wrote")
    parser.add_argument("--lines", type=int, default=5, help="of images (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=8, help="of images (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=56, help="(default: %(default)s)")
    parser.add_argument("--scale", type=int, default=3, help="screen pixels of a pixel (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Draws and writes ``filling.gif``; with ``--quick`` of a fresh network, unless one is given."""
    chosen = {name: getattr(arguments, name) for name in ("lines", "columns", "frames", "scale")}
    for name, value in chosen.items():
        if value < 1:
            raise SystemExit(f"--{name} must be 1 or more, got {value}")
    if arguments.model is None and not arguments.quick:
        raise SystemExit("--model must be a file that made-fast train wrote")
    model = MADE(64, (32,)) if arguments.model is None else MADE.load(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "filling.gif"
    write_gif(path, frames_of(model, **chosen, seed=arguments.seed))
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
