"""What the suite ``paper`` tries on each data set. Chosen on validation rows alone, never on test rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["Configuration", "grid_of", "weight_of"]


@dataclass(frozen=True)
class Configuration:
    """A network and how it is trained.

    Differs from the paper in the optimizer (AdamW with decoupled decay and averaged weights instead of SGD with adadelta or
    adagrad), in input dropout (the network sees an input as 0 now and then; the loss never does), and in SiLU among the
    activations. As there: batches of 100, a look-ahead of 30 epochs, direct connections.
    """

    hidden: tuple[int, ...] = (500,)
    activation: str = "silu"
    num_masks: int = 1
    shuffle: str = "order"
    order: str = "natural"
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    input_dropout: float = 0.0
    averaging: float = 0.998
    patience: int = 30
    epochs: int = 300
    seed: int = 0

    @property
    def name(self) -> str:
        """Short, of what differs from the defaults; a file name."""
        plain = Configuration()
        shown = ["x".join(map(str, self.hidden)) or "linear"]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != getattr(plain, field.name):
                shown.append(f"{field.name.replace('_', '-')}={value}")
        return ",".join(shown)


_SMALL = (
    *(Configuration((500,), weight_decay=decay) for decay in (0.03, 0.1)),
    Configuration((500,), learning_rate=3e-3, weight_decay=0.03),
    Configuration((500, 500)),
    *(Configuration((500,), num_masks=count, epochs=1000) for count in (2, 4)),
)
_GRIDS: dict[str, tuple[Configuration, ...]] = {
    "binarized_mnist": (
        Configuration((4000,), num_masks=8, batch_size=200, learning_rate=2e-3, averaging=0.9995, patience=8),
    ),
}
_WEIGHTS = {"binarized_mnist": 60.0, "ocr-letters": 12.0, "web": 12.0, "connect4": 8.0, "adult": 3.0, "mushrooms": 2.0}


def grid_of(name: str) -> tuple[Configuration, ...]:
    """The configurations to try on a set; a general grid for sets that are not named here."""
    return _GRIDS.get(name, _SMALL)


def weight_of(name: str) -> float:
    """The share of the time that a set is given beside the others."""
    return _WEIGHTS.get(name, 10.0)
