"""The processes that share a run: which rows are whose, and what they tell one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "Processes"]

T = TypeVar("T")


class Processes:
    """The processes of the default group of ``torch.distributed``, all of which run the same program.

    Args:
        rank: of this process.
        count: how many there are; with one, nothing is sent.
        device: where tensors lie that are sent.
    """

    def __init__(self, rank: int, count: int, device: torch.device) -> None:
        self.rank, self.count, self.device = rank, count, device

    @classmethod
    def of(cls, device: torch.device) -> Processes:
        """Those that have been initialised, for a model on this device; this one alone if there are none."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def part(self, number: int) -> slice:
        """Which of so many things in a row are this process's: parts that differ by one at most."""
        return slice(number * self.rank // self.count, number * (self.rank + 1) // self.count)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of numbers over all processes, in fp64."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        found: list[float] = tensor.tolist()
        return found

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of numbers over all processes, each for itself."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        found: list[float] = tensor.tolist()
        return found

    def of_first(self, make: Callable[[], T]) -> T:
        """What a function returns in the first process, where alone it is called; in all of them it raises what it raises."""
        if self.count == 1:
            return make()
        box: list[object] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except Exception as error:  # or the others would wait for ever
                box[1] = error
        dist.broadcast_object_list(box, 0)
        if isinstance(box[1], Exception):
            raise box[1]
        return box[0]  # type: ignore[return-value]

    def check_alike(self, called: object) -> None:
        """Raises ValueError in all processes unless all of them call ``fit`` with the same."""
        if self.count == 1:
            return
        found: list[object] = [None] * self.count
        dist.all_gather_object(found, called)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise ValueError(
                    f"fit must be called alike in all {self.count} processes, or with distributed=False in each for itself, "
                    f"got {found[0]} in process 0 and {other} in process {rank}"
                )

    @torch.no_grad()
    def share_weights(self, model: nn.Module) -> None:
        """Gives all processes the parameters and real buffers of the first."""
        if self.count > 1:
            for tensor in chain(model.parameters(), model.buffers()):
                if tensor.is_floating_point():
                    dist.broadcast(tensor.data, 0)

    @torch.no_grad()
    def average(self, gradients: Sequence[Tensor], loss: float, weight: float) -> tuple[float, float]:
        """Makes gradients of mean losses those of the mean over all processes, in place.

        Args:
            gradients: of this process's mean loss.
            loss: that mean.
            weight: of its rows together.

        Returns:
            The mean loss of all, and the weight of all; 0 and 0 if nothing has weight.
        """
        if self.count == 1:
            return loss, weight
        wide = torch.float64 if any(each.dtype == torch.float64 for each in gradients) else torch.float32
        told = torch.tensor([loss, 1.0], dtype=wide, device=self.device)
        flat = torch.cat([*(each.reshape(-1) for each in gradients), told]) * weight
        dist.all_reduce(flat)
        total = float(flat[-1])
        flat /= total or 1.0
        *parts, told = flat.split([*(each.numel() for each in gradients), 2])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return float(told[0]), total


ALONE = Processes(0, 1, torch.device("cpu"))
