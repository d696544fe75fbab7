"""Real rows against drawn ones: one column at a time, and two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.arguments import shown
from made_fast.plots.columns import Shared, shared_columns
from made_fast.plots.panels import BLUE, GREY, ORANGE, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["marginals", "pairs"]

_MOST_MARGINALS, _MOST_PAIRS = 24, 6
_PALE_BLUE = "#a9b7e0"


def marginals(
    real: Any,
    drawn: Any,
    columns: Sequence[str | int] | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: tuple[str, str] = ("real", "drawn"),
    ax: Any = None,
) -> NDArray[np.object_]:
    """Draws the share of rows by value, of real rows and of drawn ones, a panel for each column.

    Text, flags and numbers of up to 32 values are bars, other numbers and moments histograms with common bins, from the 0.1 %
    to the 99.9 % quantile; what lies beyond counts in the outermost bins. Of more than 24 categories the rarest are one.
    Missing cells are a bar of their own beside bars, and a share in the title of a histogram.

    Args:
        real: a data frame of pandas, polars or pyarrow, a mapping from names to arrays, or (N, D) numbers of any output, nan
            where a cell is missing.
        drawn: likewise, (M, D) with the same columns.
        columns: names or numbers of up to 24 columns; all if left out.
        names: of the D columns of numbers.
        labels: of the two tables, in the legend.
        ax: as many as there are columns; a figure of its own if left out.

    Returns:
        The axes (columns,).

    Raises:
        ValueError: the tables have no rows, differ in columns, or have more than 24 and ``columns`` chooses none.
        ModuleNotFoundError: matplotlib is not installed, or narwhals for a frame.
    """
    said = _two_labels(labels)
    shared = shared_columns(real, drawn, columns, names, 1, _MOST_MARGINALS)
    axes = panels(ax, len(shared), columns=min(4, len(shared)), size=(3.2, 2.5))
    for number, (axis, column) in enumerate(zip(axes, shared, strict=True)):
        _marginal(axis, column, said)
        axis.set_ylabel("share of rows", fontsize="small")
        if number == 0:
            axis.legend(frameon=False, fontsize="small")
    return np.array(axes, dtype=object)


def pairs(
    real: Any,
    drawn: Any,
    columns: Sequence[str | int] | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: tuple[str, str] = ("real", "drawn"),
    ax: Any = None,
) -> NDArray[np.object_]:
    """Draws columns two at a time: real rows below the diagonal in blue, drawn ones above it in orange, mirrored.

    Where the model is right, the two triangles are mirror images. Each panel shows the share of rows in each cell of common
    bins, the two panels of a pair by one scale of colours; on the diagonal are ``marginals``. A row of which a cell is
    missing is left out of the panels of that column.

    Args:
        real, drawn, names, labels: as of ``marginals``.
        columns: names or numbers of 2 to 6 columns; all if left out.
        ax: the square of their number; a figure of its own if left out.

    Returns:
        The axes (columns, columns).

    Raises:
        ValueError: the tables have no rows, differ in columns, or 2 to 6 are not chosen.
        ModuleNotFoundError: matplotlib is not installed, or narwhals for a frame.
    """
    said = _two_labels(labels)
    shared = [each.coarser() for each in shared_columns(real, drawn, columns, names, 2, _MOST_PAIRS)]
    side = len(shared)
    grid = np.array(panels(ax, side * side, columns=side, size=(2.1, 2.0)), dtype=object).reshape(side, side)
    for row in range(side):
        for column in range(side):
            axis = grid[row, column]
            if row == column:
                _marginal(axis, shared[row], said, missing=False)
                axis.set_title("")
                axis.set_xlim(shared[row].edges[0], shared[row].edges[-1])
                axis.tick_params(left=False, labelleft=False)  # shares, where others have y
            elif row > column:
                _pair(axis, grid[column, row], shared[column], shared[row])
            _outer_labels(axis, shared[column], shared[row], last=row == side - 1, first=column == 0)
    grid[0, 0].legend(frameon=False, fontsize="x-small")
    return grid


def _two_labels(labels: tuple[str, str]) -> tuple[str, str]:
    if isinstance(labels, str) or not isinstance(labels, Sequence) or len(labels) != 2:
        raise ValueError(f"labels must be two, of real and of drawn, got {shown(labels)}")
    return str(labels[0]), str(labels[1])


def _marginal(axis: Axes, column: Shared, said: tuple[str, str], *, missing: bool = True) -> None:
    """One column of both tables."""
    absent = [float(np.isnan(each).mean()) for each in (column.real, column.drawn)]
    heights = [column.counts(each) for each in (column.real, column.drawn)]
    title, labels = column.name, None if column.labels is None else list(column.labels)
    if labels is None:
        axis.stairs(heights[0], column.edges, fill=True, color=_PALE_BLUE, label=said[0])
        axis.stairs(heights[1], column.edges, color=ORANGE, linewidth=1.4, label=said[1])
        if missing and any(absent):
            title += f" (missing: {absent[0]:.1%}, {said[1]} {absent[1]:.1%})"
    else:
        if missing and any(absent):
            labels.append("missing")
            heights = [np.append(each, share) for each, share in zip(heights, absent, strict=True)]
        places = np.arange(len(labels))
        axis.bar(places - 0.2, heights[0], 0.4, color=_PALE_BLUE, label=said[0])
        axis.bar(places + 0.2, heights[1], 0.4, color=ORANGE, label=said[1])
    axis.set_title(title, fontsize="medium", parse_math=False)  # a name may have dollars
    axis.tick_params(labelsize="small")
    axis.margins(x=0.02)
    _name_places(axis.xaxis, column, labels=labels)


def _pair(below: Axes, above: Axes, x: Shared, y: Shared) -> None:
    """Two columns: of the real table x to the right and y upwards, of the drawn one the other way round."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    real, drawn = _joint(x, y, x.real, y.real), _joint(x, y, x.drawn, y.drawn)
    norm = PowerNorm(0.5, vmin=0, vmax=max(float(real.max()), float(drawn.max())) or 1.0)
    for axis, share, left, up, hue in ((below, real.T, x, y, BLUE), (above, drawn, y, x, ORANGE)):
        colours = LinearSegmentedColormap.from_list("share", ["white", hue])
        axis.pcolormesh(left.edges, up.edges, share, cmap=colours, norm=norm, rasterized=True)
        for spine in axis.spines.values():
            spine.set_color(GREY)


def _joint(x: Shared, y: Shared, left: NDArray[Any], up: NDArray[Any]) -> NDArray[Any]:
    """The share of the rows in each cell, (bins of x, bins of y)."""
    there = ~np.isnan(left) & ~np.isnan(up)
    places = [np.clip(each[there], column.edges[0], column.edges[-1]) for each, column in ((left, x), (up, y))]
    found: NDArray[Any] = np.histogram2d(places[0], places[1], bins=[x.edges, y.edges])[0] / len(left)
    return found


def _outer_labels(axis: Axes, x: Shared, y: Shared, *, last: bool, first: bool) -> None:
    """Names and ticks at the left and at the bottom of the grid alone."""
    axis.tick_params(labelsize="x-small")
    if last:
        _name_places(axis.xaxis, x)
        axis.set_xlabel(x.name, fontsize="small", parse_math=False)
    else:
        axis.tick_params(bottom=False, labelbottom=False)
    if first:
        if x is not y:
            _name_places(axis.yaxis, y)
        axis.set_ylabel(y.name, fontsize="small", parse_math=False)
    else:
        axis.tick_params(left=False, labelleft=False)


def _name_places(axis: Any, column: Shared, labels: list[str] | None = None) -> None:
    """Ticks along one axis: labels of categories, dates of moments."""
    labels = list(column.labels) if labels is None and column.labels is not None else labels
    if labels is not None:
        step = -(-len(labels) // 12)  # more would not be read
        places = np.arange(len(labels))[::step]
        upright = axis.axis_name == "x" and sum(map(len, labels[::step])) > 24
        axis.set_ticks(places, [labels[place] for place in places], rotation=90 if upright else 0, parse_math=False)
    elif column.moments:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=5)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))
