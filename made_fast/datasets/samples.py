"""Files of samples, written whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from made_fast.files import written_whole

__all__ = ["write_rows"]


def write_rows(path: Path, chunks: Iterable[Tensor], num_rows: int, features: int) -> None:
    """Write rows of 0 and 1 to ``.npy`` or ``.npz`` as they come, so that memory holds one chunk at a time.

    ``.npy`` gets the plain ``(num_rows, D)`` uint8 matrix, ``.npz`` the packed member ``samples`` and ``n_features``. The
    bytes of the file depend on the rows alone, not on the chunks. The file appears under its name when it is complete.

    Args:
        path: a name that ends in ``.npy`` or ``.npz``.
        chunks: ``(n, D)`` uint8 tensors on any device whose n add up to ``num_rows``.
        num_rows: number of rows in all.
        features: number of variables D.

    Raises:
        OSError: if the file cannot be written.
    """
    with written_whole(path) as partial:
        if path.suffix == ".npz":
            _write_npz(partial, chunks, num_rows, features)
        else:
            with open(partial, "wb") as file:
                _write_matrix(file, chunks, (num_rows, features), pack=False)


def _write_npz(path: Path, chunks: Iterable[Tensor], num_rows: int, features: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # A ZipInfo made by name alone carries the year 1980, so that the same rows give the same bytes.
        with archive.open(_member("n_features.npy"), "w") as file:
            np.lib.format.write_array(file, np.asarray(features))
        with archive.open(_member("samples.npy"), "w", force_zip64=True) as file:
            _write_matrix(file, chunks, (num_rows, -(-features // 8)), pack=True)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_matrix(file: IO[bytes], chunks: Iterable[Tensor], shape: tuple[int, int], *, pack: bool) -> None:
    """Write the header of a uint8 ``.npy`` of this shape, then each chunk as it comes."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    rows = 0
    for chunk in chunks:
        values = chunk.cpu().numpy()
        rows += len(values)
        file.write((np.packbits(values, axis=1) if pack else values).tobytes())
    assert rows == shape[0], f"the chunks held {rows} rows, the header says {shape[0]}"
