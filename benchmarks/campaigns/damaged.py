"""Files with damaged bytes: models, data sets, samples, checkpoints. Each is read, or refused by ValueError or OSError."""

from __future__ import annotations

import os
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.campaigns import isolated
from made_fast import MADE, datasets, training
from made_fast.outputs import Categorical, Mixed, Normal

COLUMNS = isolated.COLUMNS
REFUSALS = (ValueError, OSError)
GIBIBYTES = 1.0  # more than the process has, whatever a file says


def tally(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of ``COLUMNS`` for ``count`` damaged copies of each file."""
    return isolated.run("damaged", seed, count * len(FILES))


def child(seed: int, first: int, count: int) -> None:
    """The attempts [first, first + count), in this process, in a folder of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        originals = {
            name: _written(make, Path(folder, "whole" + Path(name).suffix)) for name, (make, _) in FILES.items()
        }
        for name, (_, read) in FILES.items():  # whatever reading loads is loaded before the limit
            path = Path(folder, "first" + Path(name).suffix)
            path.write_bytes(originals[name])
            try:
                read(path)
            except ValueError:
                assert name.startswith("samples"), name
        isolated.limited(GIBIBYTES)
        for number in range(first, first + count):
            name = list(FILES)[number % len(FILES)]
            rng = isolated.rng_of(seed, number, "damaged")
            path = Path(folder, "damaged" + Path(name).suffix)
            path.write_bytes(damage(originals[name], rng))
            isolated.attempt(name, number, lambda name=name, path=path: FILES[name][1](path), REFUSALS)


def damage(data: bytes, rng: random.Random) -> bytes:
    """The bytes with something wrong; more often near the beginning, where what is said of the rest stands."""
    found = bytearray(data)

    def place() -> int:
        return rng.randrange(min(len(found), 600) if rng.random() < 0.6 else len(found))

    how = rng.randrange(8)
    if how < 4:
        for _ in range(rng.choice((1, 1, 1, 3, 10))):
            found[place()] ^= 1 << rng.randrange(8)
    elif how == 4:
        found[place()] = rng.choice((0, 0xFF, 0x7F, ord("9"), ord("["), ord('"'), ord("-")))
    elif how == 5:
        del found[rng.randrange(len(found)) :]
    elif how == 6:
        start = place()
        found[start : start + rng.randint(1, 64)] = bytes(rng.randint(0, 64))
    else:
        start = place()
        found[start:start] = found[start : start + rng.randint(1, 200)]
    return bytes(found)


def _written(make: Callable[[Path], None], path: Path) -> bytes:
    make(path)
    return path.read_bytes()


def _rows() -> Tensor:
    return (torch.rand(40, 9, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.uint8)


def _model(**options: Any) -> MADE:
    torch.manual_seed(0)
    return MADE(9, (8, 8), **options)


def _read_model(path: Path) -> None:
    """Loads, and uses what was loaded: weights that are nan may be refused, all else must work."""
    model = MADE.load(path).eval()
    context = torch.zeros(1, model.context_features, dtype=model.parameters_layer.weight.dtype)
    try:
        model.sample(2, context if model.context_features else None, seed=0)
    except FloatingPointError as error:
        raise ValueError("weights became too large") from error


def _write_data(path: Path) -> None:
    packed = np.packbits(_rows().numpy(), axis=1)
    np.savez_compressed(path, train=packed, valid=packed[:10], test=packed[:10], n_features=9)


def _write_samples(path: Path) -> None:
    rows = _rows()
    datasets.write_rows(path, [rows.bool()], len(rows), rows.shape[1])


def _write_checkpoint(path: Path) -> None:
    rows = _rows()
    training.fit(_model(), rows, rows[:10], epochs=2, checkpoint=path)


def _resume(path: Path) -> None:
    rows = _rows()
    try:
        training.fit(_model(), rows, rows[:10], epochs=3, checkpoint=path, resume=True)
    finally:
        for left in path.parent.glob(f".{path.name}*"):
            os.unlink(left)


MIXED = Mixed([(Categorical(4, embedding=2), 4), (Normal(), 2), ("spin", 3)])
# By name: how it is written, how it is read.
FILES: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "model.safetensors": (lambda path: _model().save(path), _read_model),
    "ensemble.safetensors": (lambda path: _model(num_masks=3, context_features=2).save(path), _read_model),
    "mixed.safetensors": (lambda path: _model(output=MIXED, residual=True).save(path), _read_model),
    "data.npz": (_write_data, datasets.load),
    "samples.npy": (_write_samples, datasets.load),
    "samples.npz": (_write_samples, datasets.load),
    "training.ckpt": (_write_checkpoint, _resume),
}
