"""Data sets of arrays, whole or in parts, and the digits that scikit-learn ships."""

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
from made_fast.datasets.arrays import ARRAYS, matrix_of, read_matrix, split_rows

__all__ = ["SHARES", "SPLITS", "Dataset", "image_shape", "load", "read_parts"]

SPLITS = ("train", "valid", "test")
SHARES = (0.8, 0.1, 0.1)  # of the parts of rows that come in none


_Bits = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of numbers in three parts.

    Attributes:
        name: what messages call it.
        train: ``(N, D)`` on the CPU, of bits uint8; so are ``valid`` and ``test``, each with its own N.
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
            ``(N, D)`` on the CPU.

        Raises:
            ValueError: if ``name`` is none of the three.
        """
        one_of("split", name, SPLITS)
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def load(name_or_path: str | os.PathLike[str]) -> Dataset:
    """Read a data set: the built-in ``digits``, or a file of arrays.

    ``digits`` is scikit-learn's 1,797 scanned 8x8 digits (16 grey levels, a pixel is 1 from level 8 on), split by a fixed
    permutation into 1,297 rows to train on, 250 to validate and 250 to test. A file is one that ``read_parts`` reads; one
    that comes in no parts is split at random by ``split_rows``, with seed 0, into four fifths, a tenth and a tenth.

    Args:
        name_or_path: ``"digits"`` or the path of a ``.npz``, ``.npy`` or ``.amat`` file.

    Returns:
        The three parts as ``(N, D)`` tensors on the CPU.

    Raises:
        ValueError: if the file is damaged, lacks a member, has an empty part, or its parts do not fit each other.
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if ``digits`` is asked for and scikit-learn is not installed.
    """
    parts = read_parts(name_or_path)
    if "rows" in parts:
        numbers = torch.from_numpy(split_rows(len(parts["rows"]), SHARES, 0))
        parts = {name: parts["rows"][numbers == number] for number, name in enumerate(SPLITS)}
    features = parts["train"].shape[1]
    return Dataset(Path(name_or_path).stem, parts["train"], parts["valid"], parts["test"], image_shape(features))


def read_parts(name_or_path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Rows of a data set in the parts that it comes in.

    A ``.npz`` has the members ``train``, ``valid`` and ``test``, or ``train_data``, ``valid_data`` and ``test_data``, each
    rows of numbers; or one member alone. With a member ``n_features`` they are bits packed by ``np.packbits(axis=1)``.
    A ``.npy`` has rows of numbers, which stay on the disk until they are read; an ``.amat`` has rows of numbers as text,
    separated by spaces.

    Returns:
        ``(N, D)`` tensors on the CPU: ``train``, ``valid`` and ``test``; or ``rows`` of a file without parts.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: see ``load``.
    """
    if str(name_or_path) == "digits":
        return _load_digits()
    path = Path(name_or_path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give the path of a {', '.join(ARRAYS)} file, or the name digits")
    if path.suffix in (".npy", ".amat"):
        return {"rows": read_matrix(path)}
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


def _load_digits() -> dict[str, Tensor]:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("digits needs scikit-learn: pip install 'made_fast[demo]'") from error
    pixels = np.asarray(load_digits().data)
    order = np.random.RandomState(0).permutation(len(pixels))
    rows = torch.from_numpy((pixels[order] >= 8).astype(np.uint8))
    return {"train": rows[:1297], "valid": rows[1297:1547], "test": rows[1547:]}


def _load_npz(path: Path) -> dict[str, Tensor]:
    foreign = f"{path} is no data set of made_fast"
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{foreign}: expected a .npz with train, valid and test, got a single array")
        with archive:
            members = {key: archive[key] for key in archive}
    except Exception as error:  # numpy and zipfile raise a dozen kinds where bytes are damaged
        if str(error).startswith(foreign):
            raise
        raise ValueError(f"{path} cannot be read as .npz, it is damaged or another kind of file: {error}") from error
    count = members.pop("n_features", None)
    if len(members) == 1:
        names = {"rows": next(iter(members))}
    elif any(f"{name}_data" in members for name in SPLITS):
        names = {name: f"{name}_data" for name in SPLITS}
    else:
        names = {name: name for name in SPLITS}
    missing = [name for name in names.values() if name not in members]
    if missing:
        raise ValueError(f"{foreign}: it lacks {', '.join(missing)}")
    if count is None:
        parts = {part: matrix_of(members[name], f"{foreign}: {name}") for part, name in names.items()}
    else:
        if count.size != 1 or not np.issubdtype(count.dtype, np.integer) or int(count.item()) < 1:
            raise ValueError(f"{foreign}: n_features must be one positive integer, got {count!r}")
        features = int(count.item())
        parts = {part: _unpack(members[name], features, f"{foreign}: {name}") for part, name in names.items()}
    widths = {name: part.shape[1] for name, part in parts.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"{foreign}: its parts must have as many columns as each other, got {widths}")
    return parts


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
