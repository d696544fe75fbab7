"""The direct connection from input to output, with and without.

An implementer of MADE noted 150 nats without the connection and below 100 with it, and suspected a bug. This trains wide and
narrow networks with and without it, and the connection alone, and says of each how many earlier variables a variable cannot
see through the hidden units (``MADE.check``). Correct networks give both of these figures.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.experiments import common
from made_fast import MADE
from made_fast.datasets import Dataset

TEXT = "an experiment: with and without the direct connection from input to output"
QUICK = common.QUICK
NOTED = {"150": 150.0, "100": 100.0}  # nats of binarized MNIST
GRIDS = 16  # samples of each contender that are shown


def narrow_of(hidden: int, seed: int) -> dict[str, Any]:
    """Arguments of a network with a tenth of the units in each of two layers, and degrees by chance."""
    return {"hidden_features": (max(1, hidden // 10),) * 2, "degrees": "random", "seed": seed}


def makers_of(features: int, hidden: int, seed: int) -> dict[str, Callable[[], MADE]]:
    """Networks by name; those that are called even have degrees that are spread evenly."""
    wide: dict[str, Any] = {"hidden_features": (hidden,), "seed": seed}
    narrow = narrow_of(hidden, seed)
    return {
        "narrow, without": lambda: MADE(features, **narrow),
        "narrow, even, without": lambda: MADE(features, **{**narrow, "degrees": "even"}),
        "wide, without": lambda: MADE(features, **wide),
        "direct connection alone": lambda: MADE(features, (), direct=True),
        "narrow, with": lambda: MADE(features, **narrow, direct=True),
        "wide, with": lambda: MADE(features, **wide, direct=True),
    }


def blindness(model: MADE) -> dict[str, float]:
    """What the masks of a model keep variables from seeing.

    Returns:
        how many variables miss one before them at least, the mean number that one misses, and the number of trained weights.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # check warns of what is counted here
        report = model.check()
    missed = [missing for _, _, missing in report.cut_off]
    return {
        "variables cut off": len(missed),
        "missed by a variable": sum(missed) / model.features,
        "trained numbers": report.num_parameters,
    }


def plot(
    arguments: argparse.Namespace, data: Dataset, shape: tuple[int, int], trained: dict[str, common.Trained], blind: Any
) -> Any:
    """Curves above, samples below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 6.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    axis = above.subplots()
    colours = dict(zip(trained, ("#cf222e", "#bf3989", "#e08a00", "#6e7781", "#54aeff", "#0550ae"), strict=True))
    for name, contender in trained.items():
        epochs = [epoch.number for epoch in contender.curve]
        label = f"{name} ({contender.valid:.1f})"
        axis.plot(
            epochs, [epoch.valid_nll for epoch in contender.curve], color=colours[name], linewidth=1.8, label=label
        )
        axis.plot(
            epochs, [epoch.train_nll for epoch in contender.curve], color=colours[name], linewidth=0.9, linestyle=":"
        )
    if data.name == "binarized_mnist":
        for text, nats in NOTED.items():
            axis.axhline(nats, color="#8c959f", linewidth=0.7, linestyle="--")
            place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8, "color": "#57606a"}
            axis.annotate(f"noted:\n{text}", (1.005, nats), **place)
        axis.set_ylim(80, 235)
    common.epoch_axis(axis)
    axis.set_ylabel("negative log-likelihood, nats a row")
    axis.legend(frameon=False, fontsize=9, title="validation (dotted: training), best in brackets", title_fontsize=8)
    axis.grid(visible=True, alpha=0.25)
    axis.set_title("With and without the direct connection: the width of the hidden layers decides", fontsize=11)
    for place, (name, contender) in zip(below.subplots(1, len(trained)), trained.items(), strict=True):
        rows = contender.model.sample(GRIDS, seed=arguments.seed)
        missed = blind[name]["missed by a variable"]
        common.show(place, rows, shape, f"{name}\n{contender.valid:.1f} nats, blind to {missed:.2g}")
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_options(parser, epochs=40)


def run(arguments: argparse.Namespace) -> None:
    """Trains all of them and writes the figure."""
    data, shape = common.begin("direct", arguments)
    makers = makers_of(data.features, arguments.hidden, arguments.seed)
    trained = common.Turns(arguments, dict(makers)).run(data.train, data.valid)
    blind = {name: blindness(each.model) for name, each in trained.items() if isinstance(each.model, MADE)}
    figure = plot(arguments, data, shape, trained, blind)
    narrow = narrow_of(arguments.hidden, arguments.seed)["hidden_features"]
    networks = f"wide: {arguments.hidden} hidden units, narrow: {narrow[0]} and {narrow[1]}, degrees by chance or even"
    common.write(arguments, data, trained, figure, networks=networks, sight=blind)
