"""Binary data on disk: the data sets that train a model, and the files that its samples are written to.

One layout serves both ways. A matrix of 0 and 1 with D columns is kept as ``np.packbits(matrix, axis=1)``, eight values to
a byte, beside the integer ``n_features`` = D, in a ``.npz``. A data set has the members ``train``, ``valid`` and ``test``,
a file of samples has ``samples``; read either with ``np.unpackbits(z[key], axis=1, count=int(z["n_features"]))``.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SPLITS = ("train", "valid", "test")
IMAGE_LIMIT = 10_000  # images in one PNG: 784 pixels each make a picture of 8 megapixels

_Bits = npt.NDArray[np.uint8]
_UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


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
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def load(name_or_path: str | os.PathLike[str]) -> Dataset:
    """Read a data set: the built-in ``digits``, or a ``.npz`` file in this module's layout.

    ``digits`` is scikit-learn's 1,797 scanned 8x8 digits (16 grey levels, a pixel is 1 from level 8 on), split by a fixed
    permutation into 1,297 rows to train on, 250 to validate and 250 to test.

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
            found = {key: archive[key] for key in (*SPLITS, "n_features") if key not in missing}
    except _UNREADABLE as error:
        if str(error).startswith(foreign):
            raise
        raise ValueError(f"{path} cannot be read as .npz, it is damaged or another kind of file: {error}") from error
    if missing:
        raise ValueError(f"{foreign}: it lacks {', '.join(missing)}")
    count = found["n_features"]
    if count.size != 1 or not np.issubdtype(count.dtype, np.integer) or int(count.item()) < 1:
        raise ValueError(f"{foreign}: n_features must be one positive integer, got {count!r}")
    features = int(count.item())
    parts = [_unpack(found[key], features, f"{foreign}: {key}") for key in SPLITS]
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
    partial = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".npz":
            _write_npz(partial, chunks, num_rows, features)
        else:
            with open(partial, "wb") as file:
                _write_matrix(file, chunks, (num_rows, features), pack=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def image_grid(rows: Tensor, shape: tuple[int, int], *, columns: int, scale: int) -> _Bits:
    """Lay images out on a grey grid, 1 as black ink on white paper, each with a thin margin.

    Args:
        rows: ``(N, D)`` uint8, N of 1 or more, D = ``shape[0] * shape[1]``.
        shape: ``(height, width)`` of one image in pixels.
        columns: images per line.
        scale: screen pixels per image pixel.

    Returns:
        ``(height, width)`` uint8 grey levels.
    """
    height, width = shape
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    cell_height, cell_width = height * scale + scale, width * scale + scale
    canvas = np.full((lines * cell_height + scale, columns * cell_width + scale), 200, dtype=np.uint8)
    ink = (1 - rows.cpu().numpy().reshape(-1, height, width)) * np.uint8(255)
    for index, image in enumerate(ink):
        top, left = scale + index // columns * cell_height, scale + index % columns * cell_width
        canvas[top : top + height * scale, left : left + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return canvas


def write_png(path: Path, panels: dict[str, _Bits]) -> None:
    """Write pictures side by side, each under its title; where all titles are empty there is no room for them.

    Args:
        path: where to write; the format is PNG whatever the name.
        panels: title to grey levels ``(height, width)`` uint8.

    Raises:
        ModuleNotFoundError: if pillow is not installed.
        OSError: if the file cannot be written.
    """
    image, draw, font = load_pillow()
    gap, bar = 16, 28 if any(panels) else 0
    width = sum(panel.shape[1] for panel in panels.values()) + gap * (len(panels) - 1)
    picture = image.new("L", (width, bar + max(panel.shape[0] for panel in panels.values())), 255)
    left = 0
    for title, panel in panels.items():
        draw.Draw(picture).text((left + 2, 4), title, fill=0, font=font.load_default(size=16))
        picture.paste(image.fromarray(panel), (left, bar))
        left += panel.shape[1] + gap
    partial = path.with_name(path.name + ".part")
    try:
        picture.save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_pillow() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Pillow's modules Image, ImageDraw and ImageFont.

    Raises:
        ModuleNotFoundError: if pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a PNG needs pillow: pip install 'made_fast[demo]'") from error
    return Image, ImageDraw, ImageFont
