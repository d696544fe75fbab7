"""Data sets as one ``.npz`` file each, and the digits that scikit-learn ships."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from made_fast.arguments import one_of

__all__ = ["SPLITS", "Dataset", "image_shape", "load"]

SPLITS = ("train", "valid", "test")


_Bits = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of 0 and 1 in three parts.

    Attributes:
        name: what messages call it.
        train: ``(N, D)`` uint8 on the CPU, values 0 and 1; so are ``valid`` and ``test``, each with its own N.
        valid: the rows that decide when to stop.
        test: the rows of the reported figure.
        image_shape: ``(rows, columns)`` of pixels if a row looks like a square image, else None.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    image_shape: tuple[int, int] | None

    @property
    def features(self) -> int:
        """Number of variables D."""
        return self.train.shape[1]

    def split(self, name: str) -> Tensor:
        """The rows of one part.

        Args:
            name: ``"train"``, ``"valid"`` or ``"test"``.

        Returns:
            ``(N, D)`` uint8 on the CPU.

        Raises:
            ValueError: if ``name`` is none of the three.
        """
        one_of("split", name, SPLITS)
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def load(name_or_path: str | os.PathLike[str]) -> Dataset:
    """Read a data set: the built-in ``digits``, or a ``.npz`` file.

    ``digits`` is scikit-learn's 1,797 scanned 8x8 digits (16 grey levels, a pixel is 1 from level 8 on), split by a fixed
    permutation into 1,297 rows to train on, 250 to validate and 250 to test. A file has the members ``train``, ``valid`` and
    ``test``, each rows of bits packed by ``np.packbits(axis=1)``, and ``n_features``.

    Args:
        name_or_path: ``"digits"`` or the path of a ``.npz`` file.

    Returns:
        The three parts as ``(N, D)`` uint8 tensors on the CPU.

    Raises:
        ValueError: if the file is damaged, lacks a member, has an empty part, or its parts do not fit ``n_features``.
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if ``digits`` is asked for and scikit-learn is not installed.
    """
    if str(name_or_path) == "digits":
        return _load_digits()
    path = Path(name_or_path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give the path of a .npz file, or the name digits")
    return _load_npz(path)


def image_shape(features: int) -> tuple[int, int] | None:
    """The side lengths of a square image of ``features`` pixels, ``D = side * side`` with a side of 8 or more.

    Args:
        features: number of variables D.

    Returns:
        ``(side, side)``, or None where D is no such square.
    """
    side = math.isqrt(features)
    return (side, side) if side >= 8 and side * side == features else None


def _load_digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("digits needs scikit-learn: pip install 'made_fast[demo]'") from error
    pixels = np.asarray(load_digits().data)
    order = np.random.RandomState(0).permutation(len(pixels))
    rows = torch.from_numpy((pixels[order] >= 8).astype(np.uint8))
    return Dataset("digits", rows[:1297], rows[1297:1547], rows[1547:], (8, 8))


def _load_npz(path: Path) -> Dataset:
    foreign = f"{path} is no data set of made_fast"
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{foreign}: expected a .npz with train, valid, test and n_features, got a single array")
        with archive:
            missing = [key for key in (*SPLITS, "n_features") if key not in archive]
            members = {key: archive[key] for key in (*SPLITS, "n_features") if key not in missing}
    except Exception as error:  # numpy and zipfile raise a dozen kinds where bytes are damaged
        if str(error).startswith(foreign):
            raise
        raise ValueError(f"{path} cannot be read as .npz, it is damaged or another kind of file: {error}") from error
    if missing:
        raise ValueError(f"{foreign}: it lacks {', '.join(missing)}")
    count = members["n_features"]
    if count.size != 1 or not np.issubdtype(count.dtype, np.integer) or int(count.item()) < 1:
        raise ValueError(f"{foreign}: n_features must be one positive integer, got {count!r}")
    features = int(count.item())
    parts = [_unpack(members[key], features, f"{foreign}: {key}") for key in SPLITS]
    return Dataset(path.stem, parts[0], parts[1], parts[2], image_shape(features))


def _unpack(packed: npt.NDArray[np.generic], features: int, what: str) -> Tensor:
    width = -(-features // 8)
    if packed.dtype != np.uint8 or packed.ndim != 2:
        raise ValueError(f"{what} must be a uint8 matrix from np.packbits, got {packed.dtype} of shape {packed.shape}")
    if packed.shape[1] != width:
        raise ValueError(f"{what} must have {width} bytes a row to hold {features} variables, got {packed.shape[1]}")
    if not len(packed):
        raise ValueError(f"{what} has no rows")
    bits = np.unpackbits(packed.view(np.uint8), axis=1)
    if bits[:, features:].any():
        raise ValueError(f"{what} has values beyond its {features} variables, so n_features does not belong to it")
    return torch.from_numpy(np.ascontiguousarray(bits[:, :features]))
