"""An index that is off by one.

Parameters of a variable may read the variables *before* it: the last masks ask for ``>`` where hidden masks ask for ``>=``.
This trains a network whose last masks ask for ``>=`` too, so that every variable sees itself, and one whose last masks are
one step too strict. The first has an impossible likelihood and cannot be drawn from, the second is a worse density. Then it
prints what ``MADE.check``, the sampler and ``made_fast.accelerate`` say of them.
"""

from __future__ import annotations

import argparse
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.experiments import common
from made_fast import MADE, accelerate, masks

TEXT = "an experiment: what a mask that leaks looks like, and what the library says of it"
QUICK = common.QUICK
LEAKING, PROPER, STRICT = "leaking: >= for >", "correct", "one too strict"
GRIDS = 16
COLOURS = {LEAKING: "#cf222e", PROPER: "#0550ae", STRICT: "#e08a00"}


class Unwatched:
    """In the place of a model's structure: masks that leak are what is studied here, so nobody refuses them."""

    def check(self, network: object) -> None:
        """Finds nothing."""

    def admit(self, *arguments: object) -> None:
        """Takes everything."""

    def absent(self, network: object) -> list[str]:
        """Misses nothing."""
        return []

    def show(self, seen: object) -> None:
        """Has seen nothing."""


def shifted(features: int, hidden: int, by: int) -> MADE:
    """A network whose parameters have degrees that are off by some steps: 1 leaks, -1 keeps out the variable just before."""
    model = MADE(features, (hidden,), direct=True)
    model.structure = Unwatched()  # type: ignore[assignment]
    degrees = [masks.hidden_degrees(hidden, features)]
    layers = masks.layer_degrees(model.order, degrees, model.params_per_variable, direct=True)
    for layer, (rows, columns) in list(zip(model.masked_layers, layers, strict=True))[1:]:
        assert layer.mask is not None
        layer.mask.copy_(masks.connectivity(rows + by, columns))
    return model


class PlainMADE(nn.Module):
    """One hidden layer in plain torch, as one writes it first; ``leaking`` has the wrong comparison in the last mask."""

    first: Tensor
    last: Tensor

    def __init__(self, features: int, hidden: int, *, leaking: bool) -> None:
        super().__init__()
        self.read, self.out = nn.Linear(features, hidden), nn.Linear(hidden, features)
        variable, unit = torch.arange(features), torch.arange(hidden) % (features - 1)
        self.register_buffer("first", (unit[:, None] >= variable).float())
        last = variable[:, None] >= unit if leaking else variable[:, None] > unit
        self.register_buffer("last", last.float())

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(nn.functional.linear(x, self.read.weight * self.first, self.read.bias))
        return nn.functional.linear(hidden, self.out.weight * self.last, self.out.bias)


def said_by(call: Callable[[], object]) -> str:
    """The text of the error or, if there is none, of the result and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = str(call())
        except ValueError as error:
            return f"{type(error).__name__}: {error}"
    return "\n".join([result, *(f"{each.category.__name__}: {each.message}" for each in caught)])


def answers(leaking: MADE, strict: MADE) -> dict[str, str]:
    """What the library says of the two mistakes, by the call."""
    features = leaking.features
    plain = PlainMADE(features, 2 * features, leaking=True).eval()
    return {
        "leaking.check()": said_by(leaking.check),
        "leaking.sample(1)": said_by(lambda: leaking.sample(1, seed=0)),
        "made_fast.accelerate(leaking_plain_torch_module)": said_by(lambda: accelerate(plain)),
        "strict.check()": said_by(strict.check),
    }


def samples_of(trained: dict[str, common.Trained], features: int, seed: int) -> dict[str, Tensor]:
    """Samples by the title under which they are shown; of the leaking network, by what the picture held before."""
    drawn: dict[str, Tensor] = {}
    for name in (PROPER, STRICT):
        drawn[f"{name}\n"] = trained[name].model.sample(GRIDS, seed=seed)
    noise = torch.rand(GRIDS, features, generator=torch.Generator().manual_seed(seed)).round()
    starts = {"zeros": torch.zeros(GRIDS, features), "ones": torch.ones(GRIDS, features), "noise": noise}
    for text, start in starts.items():
        filled = common.naive_draw(trained[LEAKING].model, start, range(features), seed)
        drawn[f"leaking network, drawn\ninto a picture of {text}"] = filled
    return drawn


def plot(
    shape: tuple[int, int], trained: dict[str, common.Trained], drawn: dict[str, Tensor], said: dict[str, str]
) -> Any:
    """Curves and what the library says above, samples below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    axis, words = above.subplots(1, 2, width_ratios=(1, 1.25))
    for name, each in trained.items():
        nats = [epoch.valid_nll for epoch in each.curve]
        label = f"{name}: {each.valid:.3g} nats"
        axis.plot(
            range(1, len(nats) + 1), nats, color=COLOURS[name], linewidth=1.8, marker="o", markersize=3, label=label
        )
    axis.set_ylim(bottom=-4)
    axis.axhline(0, color="#8c959f", linewidth=0.7)
    common.epoch_axis(axis)
    axis.set_ylabel("validation NLL, nats a row")
    axis.set_title("A leak takes the figure below any density's, towards 0", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    axis.grid(visible=True, alpha=0.25)
    lines = []
    for call, text in said.items():
        shown = text.splitlines()[-1]  # of a report that ends with a warning, the warning
        lines += [f">>> {call}", *textwrap.wrap(shown, 74), ""]
    words.text(0, 1, "\n".join(lines), family="monospace", fontsize=7.6, va="top", color=common.INK)
    words.set_axis_off()
    for place, (title, rows) in zip(below.subplots(1, len(drawn)), drawn.items(), strict=True):
        common.show(place, rows, shape, title)
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_options(parser, epochs=10)


def run(arguments: argparse.Namespace) -> None:
    """Trains the three, writes the figure, prints what the library says."""
    data, shape = common.begin("leak", arguments)
    size = (data.features, arguments.hidden)
    makers = {name: lambda by=by: shifted(*size, by) for name, by in ((LEAKING, 1), (PROPER, 0), (STRICT, -1))}
    trained = common.Turns(arguments, dict(makers)).run(data.train, data.valid)
    leaking, strict = trained[LEAKING].model, trained[STRICT].model
    assert isinstance(leaking, MADE) and isinstance(strict, MADE)
    said = answers(leaking, strict)
    for call, text in said.items():
        print(f">>> {call}\n{text}\n")
    drawn = samples_of(trained, data.features, arguments.seed)
    ones = {title.replace("\n", " ").strip(): rows.mean().item() for title, rows in drawn.items()}
    networks = f"{arguments.hidden} hidden units and the direct connection"
    figure = plot(shape, trained, drawn, said)
    more = {"answers": said, "share of ones": ones}
    common.write(arguments, data, trained, figure, networks=networks, **more)
