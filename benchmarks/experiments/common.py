"""What the experiments share: options, training in turns, samples as pictures, and the JSON beside each figure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.report import machine, write_figure
from benchmarks.small_data import NAME, write_bars
from made_fast.datasets import Dataset, image_grid, load
from made_fast.models import files as checkpoint
from made_fast.training import Epoch, fit

INK = "#1f2328"
BATCH, RATE, AVERAGING = 100, 1e-3, 0.998


@dataclasses.dataclass(frozen=True)
class Trained:
    """A contender after training.

    Attributes:
        model: with its best weights, in evaluation mode.
        curve: all its epochs.
    """

    model: nn.Module
    curve: tuple[Epoch, ...]

    @property
    def valid(self) -> float:
        """The lowest validation figure, that of the weights it has."""
        return min(epoch.valid_nll for epoch in self.curve)

    def record(self) -> dict[str, Any]:
        """What the JSON says of it."""
        seconds = sum(epoch.seconds for epoch in self.curve)
        return {
            "valid": self.valid,
            "minutes": seconds / 60,
            "curve": [dataclasses.astuple(each) for each in self.curve],
        }


QUICK = {"epochs": 2, "hidden": 32, "out": Path("out/quick"), "set": NAME}


def add_options(parser: argparse.ArgumentParser, *, epochs: int) -> None:
    """Adds the options that all experiments have; so many epochs if none are asked for."""
    parser.set_defaults(out=Path("out/experiments"))
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of NAME.npz files")
    parser.add_argument("--set", default="binarized_mnist", metavar="NAME", help="of images (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=15.0, metavar="M", help="begin no epoch later (default: 15)")
    parser.add_argument(
        "--epochs", type=int, default=epochs, metavar="N", help="for each contender (default: %(default)s)"
    )
    parser.add_argument("--hidden", type=int, default=500, metavar="H", help="units of a layer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, rows and samples (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: torch's number)")


def begin(name: str, arguments: argparse.Namespace) -> tuple[Dataset, tuple[int, int]]:
    """Checks the options of an experiment and gives it its name; the data set, and the shape of its images."""
    for option in ("minutes", "epochs", "hidden"):
        if not getattr(arguments, option) > 0:
            raise SystemExit(f"--{option} must be positive, got {getattr(arguments, option)}")
    if arguments.data is None and not arguments.quick:
        raise SystemExit("--data must be a folder with .npz files")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.experiment = name
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = load(write_bars(arguments.out) if arguments.data is None else arguments.data / f"{arguments.set}.npz")
    if data.image_shape is None:
        raise SystemExit(
            f"--set must name a set of square images, 8 x 8 or larger; {arguments.set} has D = {data.features}"
        )
    return data, data.image_shape


class Turns:
    """Trains contenders in turns, an epoch each, so that all have had the same number whenever the time is up.

    A call with the same options goes on where the last one was stopped: each contender has a checkpoint.

    Args:
        arguments: of the experiment.
        makers: builds each contender; torch's generator is seeded before.
        stages: numbers of epochs; up to the largest, the weights after each epoch are kept for ``stage``.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        makers: dict[str, Callable[[], nn.Module]],
        stages: Sequence[int] = (),
    ) -> None:
        self.arguments, self.makers, self.stages = arguments, makers, stages
        self.folder = arguments.out / arguments.experiment
        self.folder.mkdir(exist_ok=True)
        self.counted = self.folder / "epochs.json"

    def run(self, train: Tensor, valid: Tensor) -> dict[str, Trained]:
        """Trains until the epochs are done or the time is up; at least one epoch is added while some are left."""
        started = last = time.monotonic()
        done = json.loads(self.counted.read_text()) if self.counted.exists() else 0
        trained: dict[str, Trained] = {}
        for epoch in range(min(done + 1, max(done, self.arguments.epochs)), max(done, self.arguments.epochs) + 1):
            now = time.monotonic()
            if trained and now + (now - last) - started > 60 * self.arguments.minutes:
                break
            last, trained = now, {name: self._train(name, train, valid, epoch) for name in self.makers}
            self.counted.write_text(f"{epoch}\n")
            shown = {" ".join(name.split()): each.curve[-1].valid_nll for name, each in trained.items()}
            figures = "; ".join(f"{name} {nats:.2f}" for name, nats in shown.items())
            print(f"{self.arguments.experiment}, epoch {epoch}: {figures}", file=sys.stderr, flush=True)
        return trained

    def _train(self, name: str, train: Tensor, valid: Tensor, epoch: int) -> Trained:
        model, path = self._make(name), self._path(name, "ckpt")
        history = fit(
            model,
            train,
            valid,
            epochs=epoch,
            batch_size=BATCH,
            learning_rate=RATE,
            averaging=AVERAGING,
            patience=10**6,
            seed=self.arguments.seed,
            checkpoint=path,
            resume=path.exists(),
        )
        if epoch <= max(self.stages, default=0):
            checkpoint.save(self._path(name, f"{epoch}.safetensors"), model.state_dict(), {})
        return Trained(model.eval(), history.epochs)

    def stage(self, name: str, epoch: int) -> nn.Module:
        """A contender as it was after an early epoch, in evaluation mode."""
        model = self._make(name)
        model.load_state_dict(checkpoint.load(self._path(name, f"{epoch}.safetensors"))[0])
        return model.eval()

    def _make(self, name: str) -> nn.Module:
        torch.manual_seed(self.arguments.seed)
        return self.makers[name]()

    def _path(self, name: str, suffix: str) -> Path:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        return self.folder / f"{plain}.{suffix}"


@torch.no_grad()
def naive_draw(model: nn.Module, start: Tensor, sequence: Sequence[int], seed: int) -> Tensor:
    """Draws variables one after the other, a forward pass for each, whatever the network reads.

    The loop that a reader would write first. Of a proper model, drawn in its own order, the result does not depend on
    ``start``; that is what the experiments show to fail for others.

    Args:
        model: maps x (B, D) to logits (B, D).
        start: (B, D) what the variables hold before they are drawn.
        sequence: the variables in the order in which they are drawn.
        seed: of the noise.
    """
    generator, x = torch.Generator().manual_seed(seed), start.clone()
    for variable in sequence:
        chance = torch.sigmoid(model(x)[:, variable])
        x[:, variable] = (torch.rand(len(x), generator=generator) < chance).to(x)
    return x


def picture(rows: Tensor, shape: tuple[int, int], *, columns: int) -> npt.NDArray[np.uint8]:
    """Images of 0 and 1 on a grey grid."""
    return image_grid(rows.to(torch.uint8), shape, columns=columns, scale=2)


def show(axis: Any, rows: Tensor, shape: tuple[int, int], title: str = "", *, columns: int | None = None) -> None:
    """Puts images into an axis, under a title."""
    grid = picture(rows, shape, columns=columns or math.isqrt(len(rows)))
    axis.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=9, color=INK)
    axis.set_axis_off()


def epoch_axis(axis: Any) -> None:
    """Names the horizontal axis and gives it whole numbers."""
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)


def settings_text(arguments: argparse.Namespace, data: Dataset, trained: dict[str, Trained], networks: str) -> str:
    """The lines under a figure: what was trained, for how long, with which seed."""
    epochs = {len(each.curve) for each in trained.values()}
    minutes = sum(each.record()["minutes"] for each in trained.values())
    return (
        f"{data.name}, {len(data.train):,} rows of {data.features} variables; {networks}, ReLU\n"
        f"AdamW {RATE:g}, batches of {BATCH}; "
        f"{'/'.join(map(str, sorted(epochs)))} epochs each, {minutes:.1f} minutes in all on {torch.get_num_threads()} "
        f"thread{'s' if torch.get_num_threads() > 1 else ''}; seed {arguments.seed}"
    )


def write(
    arguments: argparse.Namespace,
    data: Dataset,
    trained: dict[str, Trained],
    figure: Any,
    *,
    networks: str,
    **more: Any,
) -> None:
    """Writes NAME.png and NAME.json into ``--out``, the settings under the figure.

    Args:
        arguments: of the experiment.
        data: that it was trained on.
        trained: the contenders.
        figure: of matplotlib.
        networks: what they are, in words.
        more: members of the JSON beside those of all experiments.
    """
    settings = settings_text(arguments, data, trained, networks)
    figure.supxlabel(settings, fontsize=7.5, color="#57606a")
    write_figure(figure, arguments.out / f"{arguments.experiment}.png")
    result = {"experiment": arguments.experiment, "settings": settings, "machine": machine()}
    result |= {name: getattr(arguments, name) for name in ("set", "hidden", "seed")}
    result |= {"runs": {name: each.record() for name, each in trained.items()}, **more}
    path = arguments.out / f"{arguments.experiment}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)
