"""A plain autoencoder beside MADE.

Both have the same layers and are trained with the same loss, the binary cross-entropy of each variable. Only MADE has masks.
The loss of MADE is -log p(x). That of the autoencoder is not: on a patch of 12 pixels, where all x can be listed, the sum of
exp(-loss) over all x is far from 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.experiments import common
from made_fast import MADE

TEXT = "an experiment: a plain autoencoder beside MADE"
QUICK = common.QUICK
PATCH = (3, 4)  # 4,096 states
SHOWN = 16
NAMES = ("autoencoder", "MADE")
COLOURS = {"autoencoder": "#cf222e", "MADE": "#0550ae"}


class Autoencoder(nn.Module):
    """The layers of ``MADE(features, (hidden,))`` without masks; ``log_prob`` has its name from ``fit`` and is none."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.hidden, self.out = nn.Linear(features, hidden), nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, D)."""
        logits: Tensor = self.out(F.relu(self.hidden(x)))
        return logits

    def log_prob(self, x: Tensor) -> Tensor:
        """Minus the loss of reconstruction, (B,)."""
        return -F.binary_cross_entropy_with_logits(self(x), x, reduction="none").sum(-1)


def makers_of(features: int, hidden: int) -> dict[str, Callable[[], nn.Module]]:
    return {"autoencoder": lambda: Autoencoder(features, hidden), "MADE": lambda: MADE(features, (hidden,))}


def patch_of(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """The pixels in the middle of images, (N, 12)."""
    (height, width), (own_height, own_width) = shape, PATCH
    top, left = (height - own_height) // 2, (width - own_width) // 2
    images = rows.unflatten(-1, shape)
    return images[:, top : top + own_height, left : left + own_width].flatten(1)


@torch.no_grad()
def total(model: Any, features: int) -> float:
    """Sum of exp(-loss) over all x."""
    states = torch.arange(2**features)[:, None] >> torch.arange(features) & 1
    return float(model.log_prob(states.float()).double().exp().sum())


def train_on_patches(arguments: argparse.Namespace, train: Tensor, valid: Tensor) -> dict[str, dict[str, list[float]]]:
    """Trains both on patches; after each epoch the loss of validation rows and the sum over all x."""
    own = argparse.Namespace(**{**vars(arguments), "experiment": f"{arguments.experiment}-patch"})
    features = train.shape[1]
    turns = common.Turns(own, makers_of(features, max(2, arguments.hidden // 10)), stages=(arguments.epochs,))
    curves: dict[str, dict[str, list[float]]] = {}
    for name, each in turns.run(train, valid).items():
        sums = [total(turns.stage(name, epoch.number), features) for epoch in each.curve]
        curves[name] = {"loss": [epoch.valid_nll for epoch in each.curve], "sum": sums}
    return curves


@torch.no_grad()
def tries(model: Autoencoder, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """What one may do to draw from an autoencoder, by title; ``rows`` (B, D) are images."""
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return (torch.rand(logits.shape, generator=generator) < torch.sigmoid(logits)).float()

    chain = torch.rand(SHOWN, rows.shape[1], generator=generator).round()
    for _ in range(100):
        chain = draw(model(chain))
    codes = F.relu(model.hidden(rows))  # each unit's own values, of another image for each unit
    mixed = torch.stack([unit[torch.randperm(len(unit), generator=generator)] for unit in codes.T], dim=1)
    return {
        "noise, put through the\nautoencoder 100 times": chain,
        "autoencoder, values of hidden\nunits mixed among images": draw(model.out(mixed[:SHOWN])),
    }


def losses_of(trained: dict[str, common.Trained], rows: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Loss of each row (N,) by network, of images and of pixels by chance with the images' share of ones at each place."""
    chances = rows.mean(0).expand_as(rows)
    noise = torch.bernoulli(chances, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return {
            name: {what: -each.model.log_prob(x) for what, x in (("images", rows), ("noise", noise))}
            for name, each in trained.items()
        }


def plot(
    shape: tuple[int, int],
    found: dict[str, common.Trained],
    patches: dict[str, dict[str, list[float]]],
    losses: dict[str, dict[str, Tensor]],
    shown: dict[str, Tensor],
) -> Any:
    """Sums and losses above, pictures below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    sums, spread = above.subplots(1, 2)
    for name, each in patches.items():
        epochs = range(1, len(each["sum"]) + 1)
        label = f"{name}: {each['sum'][-1]:,.6g}"
        sums.plot(epochs, each["sum"], color=COLOURS[name], linewidth=1.8, marker="o", markersize=3, label=label)
    states = 2 ** (PATCH[0] * PATCH[1])
    label = f"{states:,}: each x taken for certain"
    sums.axhline(states, color="#8c959f", linewidth=0.8, linestyle="--", label=label)
    sums.set_yscale("log")
    common.epoch_axis(sums)
    sums.set_title(f"Sum of exp(-loss) over all x of {PATCH[0]} x {PATCH[1]} pixels", fontsize=10)
    sums.legend(frameon=False, fontsize=9)
    sums.grid(visible=True, alpha=0.25)
    for name, of in losses.items():
        for what, style in (("images", "stepfilled"), ("noise", "step")):
            label = f"{name}, {what}: mean {of[what].mean():.1f}"
            values = of[what].clamp(min=1e-2).log10().numpy()
            spread.hist(
                values, bins=60, histtype=style, color=COLOURS[name], alpha=0.45 if what == "images" else 1, label=label
            )
    ticks = [-1, 0, 1, 2, 3]
    spread.set_xticks(ticks, [f"{10.0**tick:,.4g}" for tick in ticks])
    spread.set_xlabel("loss of a row, nats")
    spread.set_yticks([])
    spread.set_title("Loss of validation images, and of independent pixels", fontsize=10)
    spread.legend(frameon=False, fontsize=8)
    for place, (title, rows) in zip(below.subplots(1, len(shown)), shown.items(), strict=True):
        common.show(place, rows, shape, title)
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_options(parser, epochs=15)


def run(arguments: argparse.Namespace) -> None:
    """Trains both on images and on patches, and writes the figure."""
    data, shape = common.begin("autoencoder", arguments)
    patches = train_on_patches(arguments, patch_of(data.train, shape), patch_of(data.valid, shape))
    makers = makers_of(data.features, arguments.hidden)
    trained = common.Turns(arguments, makers).run(data.train, data.valid)
    model, rows = trained["autoencoder"].model, data.valid.float()
    assert isinstance(model, Autoencoder)
    losses = losses_of(trained, rows, arguments.seed)
    with torch.no_grad():
        again = (model(rows[:SHOWN]) > 0).float()
    shown = {
        "validation images\n": rows[:SHOWN],
        "reconstructed by the\nautoencoder": again,
        **tries(model, rows, arguments.seed),
        "samples of MADE\n": trained["MADE"].model.sample(SHOWN, seed=arguments.seed),
    }
    means = {name: {what: each.mean().item() for what, each in of.items()} for name, of in losses.items()}
    figure = plot(shape, trained, patches, losses, shown)
    networks = f"{arguments.hidden} hidden units ({max(2, arguments.hidden // 10)} on patches)"
    common.write(arguments, data, trained, figure, networks=networks, patches=patches, losses=means)
