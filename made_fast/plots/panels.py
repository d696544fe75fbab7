"""Where pictures are drawn, and in which colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from made_fast.arguments import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "GREY", "INK", "ORANGE", "PALE", "SEEN", "one_panel", "panels"]

BLUE, ORANGE, GREY, PALE, INK = "#3b5bb5", "#e8862e", "#b9bdc9", "#e6e9f1", "#22252e"
SEEN = "#c3cdea"  # a pale blue beside BLUE and PALE


def panels(ax: Any, count: int, *, columns: int, size: tuple[float, float]) -> list[Axes]:
    """The axes of so many panels: those that are given, or those of a figure that is made.

    Args:
        ax: one ``Axes``, or as many as there are panels in any arrangement; or None.
        count: of the panels.
        columns: panels in a line of a figure that is made.
        size: of one panel there, width and height in inches.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: what is given is anything else, or another number of them.
    """
    try:
        from matplotlib.axes import Axes
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install 'made_fast[plots]'", name="matplotlib"
        ) from None
    if ax is not None:
        given = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
        if not all(isinstance(each, Axes) for each in given):
            raise ValueError(f"ax must be an Axes of matplotlib or several, got {shown(ax)}")
        if len(given) != count:
            wish = f"{count} Axes, one for each panel" if count > 1 else "one Axes"
            raise ValueError(f"ax must be {wish}, got {len(given)}")
        return given
    from matplotlib import pyplot

    columns = min(columns, count)
    lines = -(-count // columns)
    _, grid = pyplot.subplots(
        lines, columns, figsize=(columns * size[0], lines * size[1]), squeeze=False, layout="constrained"
    )
    for unused in grid.flat[count:]:
        unused.remove()
    return list(grid.flat[:count])


def one_panel(ax: Any, size: tuple[float, float] = (6.0, 3.6)) -> Axes:
    """The axes of a picture of one panel; see ``panels``."""
    return panels(ax, 1, columns=1, size=size)[0]
