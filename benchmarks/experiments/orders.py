"""Orders of the variables, equally trained.

An implementer of MADE noted that a random order gave no images that one could recognise. This trains the same network in
natural, structured and random orders, and shows samples after a few epochs and after all of them. Two ways to get what was
noted stand beside them: the narrow network without direct connections, and a random order drawn in another sequence.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.experiments import common
from benchmarks.experiments.direct import narrow_of
from made_fast import MADE, masks

TEXT = "an experiment: orders of the variables beside one another"
QUICK = common.QUICK
SHORT = 2  # epochs of the short training
GRIDS = 9
NARROW, MISTAKEN = "random, narrow,\nno direct", "random, drawn in\nthe natural order"


def orders_of(shape: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """Permutations of the pixels, int64 (D,), by name."""
    height, width = shape
    pixels = torch.arange(height * width).reshape(shape)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    snake = torch.where(row % 2 == 0, column, width - 1 - column) + row * width
    # Four times the squared distance from the middle, whole numbers; the angle puts the pixels of a ring side by side.
    down, right = 2 * row - (height - 1), 2 * column - (width - 1)
    ring = (down**2 + right**2).flatten() + torch.atan2(down.double(), right.double()).flatten() / 10
    # The largest power of two that divides both coordinates: every 8th pixel of every 8th row first.
    fineness = torch.zeros(shape, dtype=torch.int64)
    for step in (2, 4, 8):
        fineness += ((row % step == 0) & (column % step == 0)).long()
    coarse = torch.argsort(-fineness.flatten(), stable=True)
    return {
        "natural": pixels.flatten(),
        "reversed": masks.make_order("reversed", height * width),
        "columns": masks.make_order("columns", height * width, image_shape=shape),
        "snake": torch.argsort(snake.flatten()),
        "centre out": torch.argsort(ring),
        "coarse to fine": coarse,
        "random": masks.make_order("random", height * width, seed=seed),
    }


def makers_of(orders: dict[str, Tensor], hidden: int, seed: int) -> dict[str, Callable[[], MADE]]:
    """The same network in each order, and a narrow one in the random order."""

    def maker(order: Tensor, **settings: Any) -> Callable[[], MADE]:
        return lambda: MADE(len(order), order=order, **settings)

    made = {name: maker(order, hidden_features=(hidden,), direct=True, seed=seed) for name, order in orders.items()}
    return {**made, NARROW: maker(orders["random"], **narrow_of(hidden, seed))}


@torch.no_grad()
def beside_natural(trained: dict[str, common.Trained], rows: Tensor) -> dict[str, dict[str, float]]:
    """How many nats more than the natural order each needs on the same rows, with the half-width of a 95 % interval."""
    nats = {
        name: torch.cat([-each.model.log_prob(part) for part in rows.float().split(1000)])
        for name, each in trained.items()
    }
    more = {name: (by_row - nats["natural"]).double() for name, by_row in nats.items()}
    return {
        name: {"nats more": by_row.mean().item(), "half-width": 1.96 * by_row.std().item() / len(rows) ** 0.5}
        for name, by_row in more.items()
    }


def samples_of(model: Any, name: str, seed: int) -> Tensor:
    """What is shown of a model; of the mistake, the loop that fills a picture in the wrong sequence."""
    if name == MISTAKEN:
        return common.naive_draw(model, torch.zeros(GRIDS, model.features), range(model.features), seed)
    drawn: Tensor = model.sample(GRIDS, seed=seed)
    return drawn


def plot(
    shape: tuple[int, int],
    trained: dict[str, common.Trained],
    early: dict[str, Any],
    orders: dict[str, Tensor],
    differences: dict[str, dict[str, float]],
    seed: int,
) -> Any:
    """Two blocks of five columns: the order as a picture, samples after short and long training; differences last."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 12.2), layout="constrained")
    names, epochs = [*trained, MISTAKEN], len(trained["natural"].curve)
    axes = figure.subplots(6, 5)
    for place, name in enumerate(names):
        column = axes[3 * (place // 5) : 3 * (place // 5) + 3, place % 5]
        of = "random" if name in (NARROW, MISTAKEN) else name
        ranks = masks.rank_of(orders["natural" if name == MISTAKEN else of]).reshape(shape).numpy()
        column[0].imshow(ranks, cmap="viridis", interpolation="nearest")
        column[0].set_title(name, fontsize=10)
        column[0].set_axis_off()
        model_name = "random" if name == MISTAKEN else name
        for axis, model, nats in (
            (column[1], early[model_name], trained[model_name].curve[min(SHORT, epochs) - 1].valid_nll),
            (column[2], trained[model_name].model, trained[model_name].valid),
        ):
            text = f"{min(SHORT, epochs) if axis is column[1] else epochs} epochs"
            title = text if name == MISTAKEN else f"{text}: {nats:.1f} nats"
            common.show(axis, samples_of(model, name, seed), shape, title)
    _differences(figure, axes[3:, 4], differences)
    figure.suptitle("Orders (dark first), and samples after short and long training", fontsize=12)
    return figure


def _differences(figure: Any, axes: Any, differences: dict[str, dict[str, float]]) -> None:
    """What each order costs beside the natural one, with intervals, in the place of three axes."""
    grid = axes[0].get_subplotspec().get_gridspec()
    for axis in axes:
        axis.remove()
    axis, shown = (
        figure.add_subplot(grid[3:, 4]),
        {name: difference for name, difference in differences.items() if name != NARROW},
    )
    for place, (name, difference) in enumerate(shown.items()):
        axis.errorbar(
            difference["nats more"],
            place,
            xerr=difference["half-width"],
            fmt="o",
            color="#0550ae",
            markersize=5,
            capsize=3,
        )
        text = f"{name}: {difference['nats more']:+.2f}" if name != "natural" else name
        axis.annotate(
            text, (difference["nats more"], place), (0, 9), textcoords="offset points", fontsize=8.5, ha="center"
        )
    axis.axvline(0, color="#8c959f", linewidth=0.8)
    axis.margins(x=0.6)
    axis.set_ylim(len(shown) - 0.5, -0.7)
    axis.set_yticks([])
    axis.set_title("nats more than natural,\nsame validation rows, 95 %", fontsize=9)
    axis.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_options(parser, epochs=40)


def run(arguments: argparse.Namespace) -> None:
    """Trains all of them and writes the figure."""
    data, shape = common.begin("orders", arguments)
    orders = orders_of(shape, arguments.seed)
    makers = makers_of(orders, arguments.hidden, arguments.seed)
    short = min(SHORT, arguments.epochs)
    turns = common.Turns(arguments, dict(makers), stages=(short,))
    trained = turns.run(data.train, data.valid)
    early = {name: turns.stage(name, min(short, len(trained[name].curve))) for name in trained}
    differences = beside_natural(trained, data.valid)
    figure = plot(shape, trained, early, orders, differences, arguments.seed)
    networks = (
        f"{arguments.hidden} hidden units and the direct connection, narrow: two layers of {arguments.hidden // 10}"
    )
    common.write(arguments, data, trained, figure, networks=networks, short=short, differences=differences)
