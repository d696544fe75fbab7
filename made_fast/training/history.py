"""What a run of training tells: its epochs, the best one, and why it ended."""

from __future__ import annotations

import csv
import dataclasses
import os
from typing import Any

from made_fast.files import written_whole

__all__ = ["Epoch", "History", "TrainingError"]


class TrainingError(ValueError):
    """The loss is not finite, so that going on with these settings is pointless."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows gave.

    Attributes:
        number: 1 for the first.
        train_nll: mean over the epoch's minibatches in nats a row, with the weights and the input noise of the moment; of
            rows with weights the weighted mean, as is ``valid_nll``.
        valid_nll: mean over the validation rows in nats a row, with the averaged weights and no noise.
        improved: whether ``valid_nll`` is the lowest so far.
        learning_rate: that of the epoch; of the first group of an optimizer of one's own.
        seconds: wall time, validation included.
    """

    number: int
    train_nll: float
    valid_nll: float
    improved: bool
    learning_rate: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class History:
    """All epochs of a run, the best one, and why the run ended.

    Attributes:
        epochs: in order, those before a resume included.
        best: the one whose weights the model has now.
        stopped: ``"epochs"``, ``"patience"``, ``"time"`` or ``"on_epoch"``.

    Examples:
        >>> epoch = Epoch(1, 3.5, 3.25, True, 0.001, 0.5)
        >>> History((epoch,), epoch, "epochs").columns()["valid_nll"]
        [3.25]
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    stopped: str

    def columns(self) -> dict[str, list[Any]]:
        """The epochs by columns, named as the attributes of ``Epoch``: what ``pandas.DataFrame`` and its like take."""
        names = [field.name for field in dataclasses.fields(Epoch)]
        return {name: [getattr(epoch, name) for epoch in self.epochs] for name in names}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the epochs to a file of comma-separated values, a line each below one of names; numbers lose no digit.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        columns = self.columns()
        with written_whole(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
