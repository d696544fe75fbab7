"""Samples that are images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.arguments import tensor_of, whole_number, whole_numbers, with_values
from made_fast.outputs import CategoricalConditional, Output, make_output
from made_fast.plots.panels import GREY, one_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

__all__ = ["images"]

_MOST = 10_000  # images
_HUES = 20  # categories that have colours of their own


def images(
    x: Tensor,
    shape: tuple[int, int],
    *,
    output: str | Output | None = None,
    columns: int | None = None,
    ax: Any = None,
) -> Axes:
    """Draws images on a grid: the least value as white paper and the greatest as black ink, categories in colours.

    Args:
        x: (D,), (N, D), or (N, n, D), whose n images of a condition are one line; up to 10,000 images. Pixels that are nan,
            as those that are not known, look like the gaps between images.
        shape: height and width of an image, D pixels line by line.
        output: the distribution of the pixels, by name or as ``model.output``: it says which values there are, and which are
            categories. If left out, the least and the greatest value of x are white and black.
        columns: images in a line; n, or as many as there are lines, if left out.
        ax: where to draw; a figure of its own if left out.

    Returns:
        The axes; its one picture, ``ax.images[0]``, holds the values of all pixels, nan in the gaps;
        ``ax.figure.colorbar(ax.images[0])`` says which colour is which.

    Raises:
        ValueError: x does not have D columns, holds a value that the output cannot take, or has too many images.
        ModuleNotFoundError: matplotlib is not installed.
    """
    height, width = _shape_of(shape)
    x = with_values("x", tensor_of("x", x)).detach()
    if x.ndim not in (1, 2, 3) or x.shape[-1] != height * width:
        raise ValueError(
            f"x must have shape (..., {height * width}) for images {height} x {width}, got {tuple(x.shape)}"
        )
    count = x.numel() // (height * width)
    if not 1 <= count <= _MOST:
        raise ValueError(f"x must hold 1 to {_MOST:,} images, got {count:,}")
    if columns is None:
        columns = x.shape[1] if x.ndim == 3 else math.ceil(math.sqrt(count))
    columns = min(whole_number("columns", columns, 1), count)
    rows = x.reshape(-1, height * width).double().cpu().numpy()
    if np.isinf(rows).any():
        raise ValueError("x must be finite or nan, found inf")
    low, high, categories = _range(rows, output)
    lines = -(-count // columns)
    axes = one_panel(ax, _size(lines * height, columns * width))
    canvas = _laid_out(rows.reshape(-1, height, width), lines, columns)
    edge = 0.5 if categories else 0.0  # each category in the middle of its colour
    axes.imshow(canvas, cmap=_colours(categories), vmin=low - edge, vmax=high + edge, interpolation="nearest")
    axes.set_axis_off()
    return axes


def _shape_of(shape: tuple[int, int]) -> tuple[int, int]:
    sizes = whole_numbers("shape", shape, 1)
    if len(sizes) != 2:
        raise ValueError(f"shape must be (height, width), got {shape!r}")
    return sizes[0], sizes[1]


def _size(height: int, width: int) -> tuple[float, float]:
    """Width and height in inches: 6 for the longer side, 1.5 at least for the other."""
    longer = max(height, width)
    return max(1.5, 6 * width / longer), max(1.5, 6 * height / longer)


def _laid_out(pictures: NDArray[np.float64], lines: int, columns: int) -> NDArray[np.float64]:
    """Pictures (N, height, width) on a canvas of nan, a gap of one pixel around each."""
    count, height, width = pictures.shape
    cells = np.full((lines * columns, height + 1, width + 1), np.nan)
    cells[:count, 1:, 1:] = pictures
    grid = cells.reshape(lines, columns, height + 1, width + 1).transpose(0, 2, 1, 3)
    return np.pad(grid.reshape(lines * (height + 1), columns * (width + 1)), ((0, 1), (0, 1)), constant_values=np.nan)


def _range(rows: NDArray[np.float64], output: str | Output | None) -> tuple[float, float, int]:
    """The least and the greatest value of a picture, and how many categories there are, 0 for anything else."""
    there = rows[~np.isnan(rows)]
    low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
    if output is None:
        return low, high, 0
    distribution = make_output(output)
    conditionals = distribution.conditionals(rows.shape[1])
    values = [each.values() for each in conditionals]
    known = [each for each in values if each is not None]
    something = torch.tensor([0.0 if each is None else float(each[0]) for each in values], dtype=torch.float64)
    pixels = torch.from_numpy(rows)
    distribution.check(torch.where(pixels.isnan(), something, pixels))
    if len(known) == len(values):
        low, high = min(float(each.min()) for each in known), max(float(each.max()) for each in known)
    sizes = [each.size for each in conditionals if isinstance(each, CategoricalConditional)]
    return low, high, max(sizes) if len(sizes) == len(conditionals) else 0


def _colours(categories: int) -> Colormap:
    """A hue for each of a few categories, else ink."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    if not 0 < categories <= _HUES:
        return mpl.colormaps["gray_r"].with_extremes(bad=GREY)
    hues = mpl.colormaps["tab10" if categories <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return ListedColormap(hues[:categories]).with_extremes(bad=GREY)
