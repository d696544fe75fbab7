"""Files of samples, written whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from made_fast.files import written_whole

__all__ = ["write_rows"]

_Rows = npt.NDArray[Any]  # (n, D)


def write_rows(
    path: Path | IO[str], chunks: Iterable[Tensor], num_rows: int, features: int, dtype: torch.dtype = torch.bool
) -> None:
    """Write rows to ``.npy``, ``.npz`` or ``.csv`` as they come, so that memory holds one chunk at a time.

    ``.npy`` gets the plain ``(num_rows, D)`` matrix, of bits as uint8. ``.npz`` gets it as the member ``samples``; bits are
    packed by ``np.packbits(axis=1)``, and then, and only then, there is a member ``n_features``. ``.csv`` gets numbers
    separated by commas, with as many digits as bring them back. The bytes of the file depend on the rows alone, not on the
    chunks. The file appears under its name when it is complete.

    Args:
        path: a name that ends in ``.npy``, ``.npz`` or ``.csv``; or a file of text that is open.
        chunks: ``(n, D)`` tensors of this dtype on any device whose n add up to ``num_rows``; of bits uint8 ones too.
        num_rows: number of rows in all.
        features: number of variables D.
        dtype: of the file; ``torch.bool`` for bits.

    Raises:
        ValueError: a chunk has another dtype or width, or is to be of bits and holds something else.
        OSError: if the file cannot be written.
    """
    bits = dtype == torch.bool
    arrays = (_checked(chunk, features, dtype) for chunk in chunks)
    kind = np.dtype(np.uint8) if bits else torch.empty(0, dtype=dtype).numpy().dtype
    if not isinstance(path, Path):
        _write_text(path, arrays, num_rows)
        return
    with written_whole(path) as partial:
        if path.suffix == ".csv":
            with open(partial, "w", encoding="ascii") as text:
                _write_text(text, arrays, num_rows)
        elif path.suffix == ".npz":
            _write_npz(partial, arrays, (num_rows, features), kind, pack=bits)
        else:
            with open(partial, "wb") as file:
                _write_matrix(file, arrays, (num_rows, features), kind)


def _checked(chunk: Tensor, features: int, dtype: torch.dtype) -> _Rows:
    """The rows of a chunk as numpy has them; bits as uint8."""
    bits = dtype == torch.bool
    if chunk.ndim != 2 or chunk.shape[1] != features:
        raise ValueError(f"chunks must have shape (n, {features}), got {tuple(chunk.shape)}")
    if chunk.dtype != dtype and not (bits and chunk.dtype == torch.uint8):
        raise ValueError(f"chunks must have dtype {dtype} like the file, got {chunk.dtype}")
    if bits and chunk.dtype == torch.uint8 and bool((chunk > 1).any()):
        raise ValueError(f"chunks of bits must be 0 or 1, got {int(chunk.max())}")
    return (chunk.to(torch.uint8) if bits else chunk).cpu().numpy()


def _write_npz(path: Path, chunks: Iterable[_Rows], shape: tuple[int, int], kind: np.dtype[Any], *, pack: bool) -> None:
    num_rows, features = shape
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # A ZipInfo made by name alone carries the year 1980, so that the same rows give the same bytes.
        if pack:
            with archive.open(_member("n_features.npy"), "w") as file:
                np.lib.format.write_array(file, np.asarray(features))
            chunks, shape = (np.packbits(chunk, axis=1) for chunk in chunks), (num_rows, -(-features // 8))
        with archive.open(_member("samples.npy"), "w", force_zip64=True) as file:
            _write_matrix(file, chunks, shape, kind)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_text(file: IO[str], chunks: Iterable[_Rows], num_rows: int) -> None:
    rows = 0
    for chunk in chunks:
        digits = {2: "%.5g", 4: "%.9g", 8: "%.17g"}[chunk.dtype.itemsize] if chunk.dtype.kind == "f" else "%d"
        np.savetxt(file, chunk, fmt=digits, delimiter=",")
        rows += len(chunk)
    _check_count(rows, num_rows)


def _check_count(rows: int, num_rows: int) -> None:
    if rows != num_rows:
        raise ValueError(f"chunks must hold {num_rows} rows in all, got {rows}")


def _write_matrix(file: IO[bytes], chunks: Iterable[_Rows], shape: tuple[int, int], kind: np.dtype[Any]) -> None:
    """Write the header of a ``.npy`` of this shape, then each chunk as it comes."""
    descr = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    rows = 0
    for chunk in chunks:
        rows += len(chunk)
        file.write(np.ascontiguousarray(chunk).tobytes())
    _check_count(rows, shape[0])
