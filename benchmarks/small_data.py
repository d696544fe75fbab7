"""A small set of images, made up, on which ``--quick`` trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZE = 8
ROWS = {"train": 600, "valid": 200, "test": 100}
NAME = "bars"


def write_bars(folder: Path) -> Path:
    """Writes ``bars.npz``, images of one bar, upright or level, with a few pixels flipped, and returns where it is."""
    chance, packed = np.random.default_rng(0), {}
    for name, count in ROWS.items():
        images = np.zeros((count, SIZE, SIZE), dtype=bool)
        for image, place in zip(images, chance.integers(2 * SIZE, size=count), strict=True):
            if place < SIZE:
                image[place] = True
            else:
                image[:, place - SIZE] = True
        flat = images.reshape(count, -1)
        packed[name] = np.packbits(flat ^ (chance.random(flat.shape) < 0.03), axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{NAME}.npz", n_features=SIZE**2, **packed)
    return folder / f"{NAME}.npz"
