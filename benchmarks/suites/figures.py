"""The drawings of the documentation, each from the masks and the schedule of a real model.

Nothing is drawn by hand: what is connected, when a unit is evaluated and what is multiplied when are read from the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from benchmarks.experiments.leak import Unwatched
from benchmarks.report import write_figure
from made_fast import MADE
from made_fast.masks import input_degrees, layer_degrees, rank_of
from made_fast.plots import levels, masks
from made_fast.plots.panels import BLUE, GREY, INK, ORANGE, PALE, SEEN

TEXT = "the drawings of the documentation"
QUICK = {"out": Path("out/figures"), "only": ["dependence"]}
TILE = 16  # units of a tile in the picture of the staircase
PANEL = 8  # units that the engine multiplies together (csrc/plan/plan.h)

Array = NDArray[Any]


def _axes(width: float, height: float, columns: int, **options: Any) -> tuple[Figure, Array]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns, **options))


def _bare(axes: Any, title: str, below: str = "") -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(below, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(figure: Figure, *entries: tuple[str, str]) -> None:
    patches = [Patch(facecolor=colour, edgecolor=GREY, label=label) for colour, label in entries]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(entries), fontsize=8, frameon=False)


def dependence() -> Figure:
    """Derivatives of the logits by the variables, for one set of weights without masks and with them."""
    torch.manual_seed(0)
    model = MADE(16, (64, 64), activation="tanh")
    plain = MADE(16, (64, 64), activation="tanh")
    plain.load_state_dict(model.state_dict())
    plain.structure = Unwatched()  # type: ignore[assignment]
    for layer in plain.masked_layers:
        layer.mask = torch.ones_like(layer.weight, dtype=torch.bool)  # an autoencoder: everything sees everything
    x = torch.bernoulli(torch.full((16,), 0.5))
    figure, axes = _axes(6.4, 3.2, 2)
    titles = ("autoencoder: no masks", "MADE: the same weights, masked")
    for axis, each, title in zip(axes, (plain, model), titles, strict=True):
        jacobian = torch.autograd.functional.jacobian(each, x)
        axis.imshow((jacobian != 0).numpy(), cmap=ListedColormap([PALE, BLUE]), vmin=0, vmax=1)
        _bare(axis, title, "variable $x_j$")
        axis.set_ylabel("parameter of $x_i$", fontsize=8)
        axis.set_xticks(np.arange(-0.5, 16), minor=True)
        axis.set_yticks(np.arange(-0.5, 16), minor=True)
        axis.grid(which="minor", color="white", linewidth=0.8)
        axis.tick_params(which="minor", length=0)
    _legend(figure, (BLUE, "derivative is not zero"), (PALE, "derivative is zero"))
    return figure


def network() -> Figure:
    """A small MADE with the degree of each unit, and its masks; what one parameter depends on is in colour."""
    model = MADE(4, (6, 6), order=(1, 3, 0, 2))
    layers = [(rows.tolist(), columns.tolist()) for rows, columns in _degrees(model)]
    chosen = 0  # the variable whose parameter is followed
    figure = Figure(figsize=(8.2, 3.9), layout="constrained")
    left, *right = figure.subplot_mosaic("aab;aac;aad").values()
    seen = {len(layers): {chosen}}
    for number in range(len(layers), 0, -1):
        mask = model.masked_layers[number - 1].mask
        assert mask is not None
        seen[number - 1] = {column for row in seen[number] for column in mask[row].nonzero()[:, 0].tolist()}
    heights = [layers[0][1], *(rows for rows, _ in layers)]
    places = [np.linspace(0, 1, len(degrees) + 2)[1:-1] for degrees in heights]
    for number, layer in enumerate(model.masked_layers):
        assert layer.mask is not None
        for row, column in layer.mask.nonzero().tolist():
            followed = row in seen[number + 1]
            ends = ([number, number + 1], [1 - places[number][column], 1 - places[number + 1][row]])
            left.plot(*ends, color=ORANGE if followed else GREY, linewidth=1.4 if followed else 0.6, zorder=followed)
    for number, degrees in enumerate(heights):
        for unit, degree in enumerate(degrees):
            place = (number, 1 - places[number][unit])
            colour = ORANGE if unit in seen[number] else "white"
            left.scatter(*place, s=260, color=colour, edgecolors=INK, linewidths=0.9, zorder=3)
            left.text(*place, str(degree), ha="center", va="center", fontsize=9, zorder=4)
            if number in (0, len(heights) - 1):
                side = -1 if number == 0 else 1
                name = f"$x_{unit}$" if number == 0 else f"$p(x_{unit}\\,|\\,\\cdot)$"
                left.text(number + 0.14 * side, place[1], name, ha="right" if side < 0 else "left", va="center")
    left.set_xlim(-0.5, 3.7)
    left.axis("off")
    left.set_title("degree of each unit; order: $x_1, x_3, x_0, x_2$", fontsize=9)
    names = ("first hidden layer", "second hidden layer", "parameters")
    masks(model, ax=right)
    for axis, (rows, columns), name in zip(right, layers, names, strict=True):
        axis.set_title(f"mask: {name}", fontsize=8)
        axis.set_xlabel("")
        axis.set_xticks(range(len(columns)), columns, fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=6)
        axis.tick_params(length=0)
    return figure


def _degrees(model: MADE) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Degrees of rows and columns of each masked layer, read back from the masks: what a unit sees decides it."""
    hidden, below = [], input_degrees(model.order)
    for layer in model.hidden:
        below = torch.stack([below[row].max() if bool(row.any()) else below.new_zeros(()) for row in layer.mask])
        hidden.append(below)
    found = layer_degrees(model.order, hidden, model.params_per_variable, direct=model.direct)
    for layer, (rows, columns) in zip(model.masked_layers, found, strict=True):
        assert torch.equal(layer.mask, rows[:, None] >= columns)  # the rule that makes every mask
    return found


def staircase() -> Figure:
    """The mask of a first layer as it lies in memory, and sorted, cut into tiles."""
    model = MADE(128, (160,), order="random", degrees="random")
    mask = model.hidden[0].mask.numpy()
    ordered = mask[np.argsort(mask.sum(1), kind="stable")][:, np.argsort(-mask.sum(0), kind="stable")]
    tiles = ordered.reshape(160 // TILE, TILE, 128 // TILE, TILE).mean((1, 3))
    kind = np.where(tiles == 0, 0, np.where(tiles == 1, 1, 2)).repeat(TILE, 0).repeat(TILE, 1)
    figure, axes = _axes(7.6, 3.9, 3)
    axes[0].imshow(mask, cmap=ListedColormap([PALE, BLUE]), interpolation="nearest")
    _bare(axes[0], "the mask, random order", "variables")
    axes[0].set_ylabel("hidden units", fontsize=8)
    axes[1].imshow(ordered, cmap=ListedColormap([PALE, BLUE]), interpolation="nearest")
    _bare(axes[1], "rows and columns sorted", "the same entries")
    axes[2].imshow(kind, cmap=ListedColormap([PALE, BLUE, ORANGE]), vmin=0, vmax=2, interpolation="nearest")
    shares = [f"{(tiles == 0).mean():.0%}", f"{(tiles == 1).mean():.0%}", f"{((tiles > 0) & (tiles < 1)).mean():.0%}"]
    _bare(axes[2], f"in tiles of {TILE} x {TILE}", f"empty {shares[0]}, full {shares[1]}, on the step {shares[2]}")
    _legend(figure, (PALE, "empty: skipped"), (BLUE, "full: no mask needed"), (ORANGE, "on the step: masked"))
    return figure


def orders() -> Figure:
    """Masks of one ensemble on an image of 8 x 8 pixels: when each pixel is drawn, and what the first layer reads."""
    model = MADE(64, (64,), num_masks=8, shuffle="both")
    figure = Figure(figsize=(7.6, 3.9), layout="constrained")
    axes = figure.subplots(2, 4)
    for number in range(4):
        rank = rank_of(model.order_of(number)).reshape(8, 8).numpy()
        image = axes[0, number].imshow(rank, cmap="viridis")
        _bare(axes[0, number], f"mask {number}" + (": natural order" if number == 0 else ""))
        term = model.program(mask=number).affines[0].terms[0]
        assert term.mask is not None
        axes[1, number].imshow(term.mask.numpy(), cmap=ListedColormap([PALE, BLUE]), interpolation="nearest")
        _bare(axes[1, number], "", "pixels")
    axes[1, 0].set_ylabel("hidden units", fontsize=8)
    axes[0, 0].set_ylabel("image", fontsize=8)
    bar = figure.colorbar(image, ax=axes[0, :], shrink=0.8, ticks=[0, 63])
    bar.ax.set_yticklabels(["first", "last"], fontsize=8)
    return figure


def work() -> Figure:
    """Which units are evaluated at which step, by the slow loop and by the schedule."""
    model = MADE(24, (40, 40))
    figure, axes = _axes(7.6, 4.0, 2, sharey=True)
    units = sum(len(plan.rows) for plan in model.sampler().schedule.affines)
    every = np.ones((units, 24), dtype=int)
    axes[0].imshow(every, cmap=ListedColormap([PALE, BLUE]), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for edge in np.cumsum((40, 40)):
        axes[0].axhline(edge - 0.5, color=INK, linewidth=0.8)
    levels(model, ax=axes[1])
    for axis, title in zip(axes, ("slow loop", "schedule"), strict=True):
        for step in range(23):
            axis.axvline(step + 0.5, color="white", linewidth=0.6)
        evaluated = every.sum() if axis is axes[0] else units
        axis.set_title(f"{title}: {evaluated:,} units evaluated", fontsize=9)
        axis.set_xlabel("variables drawn so far", fontsize=8)
        axis.tick_params(labelsize=7)
    _legend(figure, (BLUE, "evaluated"), (SEEN, "may be seen"), (PALE, "must not be seen"))
    return figure


def solve() -> Figure:
    """When each product of a draw is made: for a panel of units at once, or unit by unit within it."""
    model = MADE(48, (64, 64))
    schedule = model.sampler().schedule
    names = ("hidden 1", "hidden 2", "parameters")
    figure, axes = _axes(7.6, 3.4, 3, width_ratios=(48, 64, 64))
    for axis, plan, name in zip(axes, schedule.affines, names, strict=True):
        rows, columns = np.arange(len(plan.rows)), np.arange(len(plan.columns))
        together = plan.ready[rows - rows % PANEL]  # columns that are known when the first unit of the panel is due
        read = columns < plan.needed[:, None] if plan.mask is None else plan.mask
        kind = np.where(read, np.where(columns < together[:, None], 1, 2), 0)
        axis.imshow(kind, cmap=ListedColormap([PALE, BLUE, ORANGE]), vmin=0, vmax=2, interpolation="nearest")
        _bare(axis, name, f"{(kind == 1).sum() / read.sum():.0%} of {read.sum():,} products in panels")
        axis.set_ylabel("units, in order of time", fontsize=8)
    _legend(figure, (BLUE, f"for {PANEL} units at once"), (ORANGE, "unit by unit"), (PALE, "masked: nothing"))
    return figure


def preview() -> Figure:
    """What a link to the site shows where it is pasted, 1200 x 630 pixels: the name, and when each unit is evaluated."""
    figure = Figure(figsize=(10, 5.25))
    figure.text(0.06, 0.66, "made_fast", fontsize=44, weight="bold", color=INK)
    said = "MADE for PyTorch: a whole sample\nfor half the arithmetic\nof one dense forward pass"
    figure.text(0.06, 0.60, said, fontsize=16, color=INK, va="top", linespacing=1.5)
    figure.text(
        0.06, 0.14, "each hidden unit is evaluated once,\nas soon as its inputs are known", fontsize=12, color=BLUE
    )
    axes = levels(MADE(24, (40, 40)), ax=figure.add_axes((0.53, 0.10, 0.43, 0.80)))
    for step in range(23):
        axes.axvline(step + 0.5, color="white", linewidth=0.8)
    _bare(axes, "", "variables drawn so far")
    axes.set_yticks([])
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    each.__name__: each for each in (dependence, network, staircase, orders, work, solve, preview)
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="NAME", help="(default: all)"
    )
    parser.set_defaults(out=Path("docs/images"))


def run(arguments: argparse.Namespace) -> None:
    """Writes them."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "axes.edgecolor": GREY, "text.color": INK})
    for name in arguments.only:
        write_figure(FIGURES[name](), arguments.out / f"{name}.png", dpi=120, colours=128)
