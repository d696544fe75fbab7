"""Files of arrays: rows of numbers in ``.npy``, ``.npz`` and ``.amat``, whole or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from made_fast.arguments import shown

__all__ = ["ARRAYS", "read_matrix", "split_rows"]

ARRAYS = (".npy", ".npz", ".amat")


def read_matrix(path: Path) -> Tensor:
    """Rows of a ``.npy``, in memory as they are read from the disk; or of an ``.amat``, numbers separated by spaces.

    Returns:
        (N, D) of the file's dtype, of ``.amat`` uint8 where all are whole numbers 0 to 255 and else fp32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no matrix of real numbers, or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no data at {path}" + (": it is a folder" if path.is_dir() else ""))
    try:
        # Copied when it is written to, which nobody does: torch wants no read-only arrays.
        array = np.load(path, mmap_mode="c", allow_pickle=False) if path.suffix == ".npy" else _read_text(path)
    except Exception as error:  # numpy raises a dozen kinds where bytes are damaged
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as {path.suffix}, it is damaged or another kind of file: {why}"
        ) from error
    return matrix_of(array, str(path))


def matrix_of(array: object, what: str) -> Tensor:
    """An array as rows (N, D), N and D of 1 or more, in a dtype of torch.

    Raises:
        ValueError: it is something else; the message begins with ``what``.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub" or not array.size:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else shown(array)
        raise ValueError(f"{what} must be a matrix of numbers with a row at least, got {found}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.longdouble and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_text(path: Path) -> npt.NDArray[np.generic]:
    numbers = np.loadtxt(path, dtype=np.float32, ndmin=2)
    whole = bool(((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all())
    return numbers.astype(np.uint8) if whole else numbers


def split_rows(num_rows: int, shares: Sequence[float], seed: int) -> npt.NDArray[np.uint8]:
    """For each row the part that it belongs to, by chance: as many rows in each as its share says.

    Args:
        num_rows: N.
        shares: of two or three parts, positive numbers that add up to 1.
        seed: the same seed makes the same parts.

    Returns:
        (N,) numbers of parts.

    Raises:
        ValueError: a part would have no row.
    """
    ends = np.rint(np.cumsum([0, *shares]) * num_rows).astype(np.int64)
    counts = np.diff(ends)
    if counts.min(initial=1) < 1:
        raise ValueError(
            f"split must leave each part a row, got {counts.tolist()} of {num_rows}: give more rows or other shares"
        )
    parts = np.repeat(np.arange(len(shares), dtype=np.uint8), counts)
    np.random.default_rng(seed).shuffle(parts)
    return parts
