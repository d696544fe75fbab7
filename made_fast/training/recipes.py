"""A recipe: the network and the options of ``fit`` that are good without a grid, from the numbers of rows and variables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from made_fast.arguments import tensor_of, whole_number, whole_numbers

__all__ = ["Recipe", "Shifted", "recipe"]

_STEPS, _STEPS_OF_IMAGES = 20_000, 5_000  # of AdamW after which models of all sizes that were tried are fitted
_EPOCHS = (20, 400)
_ORDERS = ("natural", "random", "reversed", "random")  # of members, in turns
_SCANS = 8  # ways to go through an image line by line


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A mean of networks with orders of their own, and how they are trained; made by ``recipe``, changed by
    ``dataclasses.replace``.

    Attributes:
        features: number of variables D.
        members: networks whose densities are averaged.
        hidden_features, activation, direct: of each, see ``MADE``.
        order: of each, see ``MADE``; ``"random"`` is another one in each; ``"several"``: natural, random, reversed and random
            ones in turns; ``"scans"`` for images that are gone through line by line, from another corner or in another
            direction in each.
        image_shape: (height, width) where the variables are pixels, or None.
        shift: pixels by which images are moved at most while they are trained, see ``Shifted``; 0 for none.
        batch_size, learning_rate, weight_decay, input_dropout, averaging, schedule, epochs, patience: see ``fit``.
    """

    features: int
    members: int = 8
    hidden_features: tuple[int, ...] = (500,)
    activation: str = "silu"
    direct: bool = True
    order: str = "several"
    image_shape: tuple[int, int] | None = None
    shift: int = 0
    batch_size: int = 100
    learning_rate: float = 6e-3
    weight_decay: float = 0.1
    input_dropout: float = 0.0
    averaging: float = 0.999
    schedule: str = "cosine"
    epochs: int = 100
    patience: int = 30

    def member(self, number: int, seed: int = 0) -> dict[str, Any]:
        """The arguments of ``MADE`` for a member, 0, 1, ...; seeds give other random orders."""
        number = whole_number("number", number)
        order: Any = self.order
        if order in ("scans", "several"):
            order = _scan(self.image_shape, number) if order == "scans" else _ORDERS[number % len(_ORDERS)]
        return {
            "features": self.features,
            "hidden_features": self.hidden_features,
            "activation": self.activation,
            "direct": self.direct,
            "order": order,
            "seed": seed * 1_000_003 + number,
        }

    def training(self) -> dict[str, Any]:
        """The options of ``fit``."""
        names = ("learning_rate", "weight_decay", "input_dropout", "averaging", "schedule", "epochs", "patience")
        return {"batch_size": self.batch_size, **{name: getattr(self, name) for name in names}}

    def rows(self, train: Tensor) -> Tensor | Shifted:
        """What ``fit`` learns from: rows (N, D), of images moved ones."""
        if not self.shift or self.image_shape is None:
            return train
        clean = self.epochs - self.epochs // 5
        return Shifted(train, self.image_shape, shift=self.shift, batch_size=self.batch_size, until=clean)


def recipe(rows: int, features: int, *, members: int = 8, image_shape: tuple[int, int] | None = None) -> Recipe:
    """What to train on so many rows, without a grid.

    One hidden layer beside direct connections, SiLU, AdamW at a rate that falls as a cosine, averaged weights, early
    stopping, and the mean of several networks with orders of their own, of which validation rows select those that help.
    About as many steps however many rows there are. What each part brings is in ``benchmarks/results/paper.md``.

        chosen = recipe(len(train), features)
        model = Mixture([MADE(**chosen.member(k)) for k in range(chosen.members)])
        history = fit(model, chosen.rows(train), valid, **chosen.training())
        model = model.selected(valid)

    Args:
        rows: N to learn from.
        features: number of variables D.
        members: networks whose densities are averaged, each as dear as the first; 1 for a single one.
        image_shape: (height, width) where the variables are pixels, row by row: images are moved by a pixel while the network
            learns, and gone through line by line; None for variables of any other kind.

    Raises:
        ValueError: a number is below 1, or the image has not D pixels.
    """
    rows, features = whole_number("rows", rows, 1), whole_number("features", features, 1)
    members = whole_number("members", members, 1)
    size, rate = (100, 6e-3) if rows < 40_000 else (200, 1.2e-2)
    least, most = _EPOCHS
    total = _STEPS if image_shape is None else _STEPS_OF_IMAGES
    epochs = min(max(math.ceil(total / math.ceil(rows / size)), least), most)
    width = max(500, 100 * round(features / 40))
    chosen = Recipe(features, members, (width,), batch_size=size, learning_rate=rate, epochs=epochs)
    chosen = dataclasses.replace(chosen, patience=max(10, epochs // 8))
    if image_shape is None:
        return chosen
    height, width = _image("image_shape", image_shape, features)
    return dataclasses.replace(chosen, order="scans", image_shape=(height, width), shift=1)


class Shifted:
    """Minibatches of images that are moved by up to ``shift`` pixels in both directions, each time anew, for ``fit``.

    What leaves on one side comes back on the other. Later epochs have the images where they were, since there is where they
    will be judged. Rows and shifts come from torch's global generator, which ``fit`` seeds for each epoch.

    Args:
        rows: (N, D) of any dtype.
        image_shape: (height, width) of the D pixels, row by row.
        shift: pixels at most, 1 or more.
        batch_size: rows of a minibatch.
        until: the last epoch whose images are moved; None for all of them.

    Raises:
        ValueError: an argument does not fit.
    """

    def __init__(
        self,
        rows: Tensor,
        image_shape: tuple[int, int],
        *,
        shift: int = 1,
        batch_size: int = 100,
        until: int | None = None,
    ) -> None:
        self.dataset = tensor_of("rows", rows)
        if self.dataset.ndim != 2 or not len(self.dataset):
            raise ValueError(f"rows must have shape (N, D), N of 1 or more, got {tuple(self.dataset.shape)}")
        self.image_shape = _image("image_shape", image_shape, self.dataset.shape[1])
        self.shift, self.batch_size = whole_number("shift", shift, 1), whole_number("batch_size", batch_size, 1)
        self.until = None if until is None else whole_number("until", until, 0)
        self._epoch = 1

    def __len__(self) -> int:
        """Minibatches of an epoch."""
        return math.ceil(len(self.dataset) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes, counted from 1; ``fit`` does."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        moved = self.until is None or self._epoch <= self.until
        for numbers in torch.randperm(len(self.dataset)).split(self.batch_size):
            x = self.dataset[numbers.to(self.dataset.device)]
            yield self._moved(x) if moved else x

    def _moved(self, x: Tensor) -> Tensor:
        count, (height, width) = len(x), self.image_shape
        dy, dx = torch.randint(-self.shift, self.shift + 1, (2, count, 1))
        from_rows, from_columns = (torch.arange(height) - dy) % height, (torch.arange(width) - dx) % width
        pixels = (from_rows[:, :, None] * width + from_columns[:, None, :]).reshape(count, -1)
        return x.gather(1, pixels.to(x.device))


def _image(name: str, shape: tuple[int, int], features: int) -> tuple[int, int]:
    sizes = whole_numbers(name, shape, 1)
    if len(sizes) != 2 or sizes[0] * sizes[1] != features:
        raise ValueError(f"{name} must be (height, width) of {features} pixels, got {shape}")
    return sizes[0], sizes[1]


def _scan(image_shape: tuple[int, int] | None, number: int) -> list[int]:
    """The pixels of an image line by line: rows or columns, from one of four corners."""
    if image_shape is None:
        raise ValueError("image_shape must be given for order='scans', got None")
    height, width = image_shape
    pixels = torch.arange(height * width).reshape(height, width)
    kind = number % _SCANS
    flips = [axis for axis in (0, 1) if kind >> (2 - axis) & 1] if kind else []
    pixels = pixels.flip(flips)
    return (pixels.T if kind & 1 else pixels).reshape(-1).tolist()
