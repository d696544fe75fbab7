"""The state of a run, and what takes it from one epoch to the next."""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from made_fast.training import checkpoints
from made_fast.training.batches import BatchRows
from made_fast.training.history import Epoch, TrainingError
from made_fast.training.layout import Parts, like_model
from made_fast.training.optimizers import MakeOptimizer, adamw_of, described_optimizer, optimizer_of
from made_fast.training.processes import ALONE, Processes
from made_fast.training.rows import Batch, Rows, TensorRows
from made_fast.training.steps import Steps, nll_of, steps_of
from made_fast.training.values import refuse_strange, warn_of_scales

__all__ = ["SCHEDULES", "Run", "Settings", "mean_of", "nll_over"]

SCHEDULES = ("plateau", "cosine")
_DECAY = 0.3  # factor on the learning rate after each run of epochs without improvement
_EVALUATED = 1000  # rows at a time
_DRAWING = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention, nn.RReLU, nn.FractionalMaxPool2d)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the numbers of an epoch; a resumed run must have the same."""

    batch_size: int
    learning_rate: float
    weight_decay: float
    input_dropout: float
    averaging: float
    decay_after: int
    seed: int
    cosine_epochs: int | None = None  # of a cosine; None: the rate falls on a plateau


class Run:
    """The state of a run between two epochs: all that a checkpoint holds.

    Args:
        model, optimizer: see ``fit``.
        train, valid: its rows.
        settings: checked.
        processes: that share the work.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Rows,
        valid: Rows,
        settings: Settings,
        optimizer: torch.optim.Optimizer | MakeOptimizer | None,
        processes: Processes,
    ) -> None:
        self.model, self.train, self.valid, self.settings, self.processes = model, train, valid, settings, processes
        self.average = copy.deepcopy(model)
        self.is_own = optimizer is not None
        self.optimizer: torch.optim.Optimizer = (
            adamw_of(model, settings.learning_rate, settings.weight_decay)
            if optimizer is None
            else optimizer_of(model, optimizer)
        )
        self.described = described_optimizer(self.optimizer)
        self.history: list[Epoch] = []
        self.best_state: dict[str, Tensor] = {}
        self.steps = 0  # minibatches so far
        self._known, self._like = _kinds_of(model), next(model.parameters())
        self._is_drawing = any(isinstance(each, BatchRows) for each in (train, valid)) or _may_draw(model)

    @property
    def best(self) -> int:
        """Index of the epoch with the lowest validation figure; the earliest of equals."""
        return max(index for index, epoch in enumerate(self.history) if epoch.improved)

    def why_stop(self, epochs: int, patience: int, max_minutes: float | None) -> str | None:
        """The reason not to run another epoch, or None."""
        done = self.history
        if done and max_minutes is not None:
            spent = sum(epoch.seconds for epoch in done)
            if spent + done[-1].seconds > 60 * max_minutes:
                return "time"
        if done and len(done) - 1 - self.best >= patience:
            return "patience"
        return "epochs" if len(done) >= epochs else None

    def next_epoch(self, *, progress: bool) -> None:
        """One pass over the training rows, then the validation of the averaged weights."""
        start, number = time.monotonic(), len(self.history) + 1
        if _kinds_of(self.model) != self._known:
            raise ValueError("model must have the same parameters in every epoch, found others or other dtypes")
        rate = self._set_learning_rate()
        with self._generators(number) as (order, noise):
            train_nll = self._pass_over_rows(number, order, noise, progress=progress)
            valid_nll = self._validated(number)
        if not math.isfinite(valid_nll):
            raise TrainingError(f"valid NLL is {valid_nll} in epoch {number}: lower the learning rate, now {rate:g}")
        improved = all(valid_nll < epoch.valid_nll for epoch in self.history)
        (seconds,) = self.processes.most([time.monotonic() - start])  # all stop together
        self.history.append(Epoch(number, train_nll, valid_nll, improved, rate, seconds))
        if improved:
            self.best_state = {name: value.detach().clone() for name, value in self.average.state_dict().items()}

    def _set_learning_rate(self) -> float:
        """Lets the rates fall where it is time; returns that of the first group."""
        factor = self._share_of_rate(len(self.history))
        if self.is_own and self.history:  # whatever else changes the rates goes on
            factor = factor / self._share_of_rate(len(self.history) - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (group["lr"] if self.is_own else self.settings.learning_rate)
        return float(self.optimizer.param_groups[0]["lr"])

    def _share_of_rate(self, done: int) -> float:
        """What is left of the learning rate after so many epochs."""
        if self.settings.cosine_epochs is not None:
            return (1 + math.cos(math.pi * min(done / self.settings.cosine_epochs, 1))) / 2
        improved = [epoch.improved for epoch in self.history[:done]]
        return float(_DECAY ** _reductions(improved, self.settings.decay_after))

    @contextmanager
    def _generators(self, number: int) -> Iterator[tuple[torch.Generator | None, torch.Generator | None]]:
        """Those of row order, on the CPU, and of noise, on the model's device; None for torch's own, seeded meanwhile."""
        seed, device = self.settings.seed * 1_000_003 + number, next(self.model.parameters()).device
        if self._is_drawing:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                yield None, None
        else:
            order = torch.Generator().manual_seed(seed)
            yield order, order if device.type == "cpu" else torch.Generator(device).manual_seed(seed)

    def _pass_over_rows(
        self, number: int, order: torch.Generator | None, noise: torch.Generator | None, *, progress: bool
    ) -> float:
        self.model.train()
        size, flat = self.settings.batch_size, not self.is_own
        batches = self.train.minibatches(size, order, self.processes, number)
        length, quiet = self.train.num_batches(size), None if progress else True
        bar = tqdm(batches, f"epoch {number}", total=length, leave=False, disable=quiet)
        total = everything = 0.0
        with steps_of(self.model, self.average, self.optimizer, self.processes, flat=flat) as steps:
            for batch in bar:
                _use_mask_of(self.model, self.steps)
                loss, weight = self._gradients(steps, batch, noise)
                if weight:
                    # Of the average more is given up at first, else the first weights would linger.
                    steps.update(min(self.settings.averaging, (1 + self.steps) / (10 + self.steps)))
                    total, everything = total + loss * weight / batch.copies, everything + weight / batch.copies
                self.steps += 1
        if not everything:
            raise ValueError(_weightless(self.train.name))
        return total / everything

    def _gradients(self, steps: Steps, batch: Batch, noise: torch.Generator | None) -> tuple[float, float]:
        """The loss of a minibatch and its weight; see ``Steps``."""
        x, context, weight = batch.rows
        try:
            if context is None and weight is None:
                made = like_model(self._like, x)
                rows = batch.rows if made is x else Parts(made, None, None)
            else:
                rows = batch.rows.mapped(partial(like_model, self._like))
            seen = self._damaged(rows.x, batch, noise) if self.settings.input_dropout else None
            loss, total = steps.gradients(rows, seen)
        except ValueError:
            refuse_strange(self.train.name, batch.rows, "row of a batch,")
            raise
        if not math.isfinite(loss):
            refuse_strange(self.train.name, batch.rows, "row of a batch,")
            rate, number = float(self.optimizer.param_groups[0]["lr"]), len(self.history) + 1
            raise TrainingError(f"loss is {loss} in epoch {number}: lower the learning rate, now {rate:g}")
        if not self.steps and not isinstance(self.train, TensorRows):
            warn_of_scales(self.model, self.train.name, x, stacklevel=5)
        return loss, total

    def _damaged(self, x: Tensor, batch: Batch, noise: torch.Generator | None) -> Tensor:
        """x with inputs set to 0 by chance, the same ones however many processes share the minibatch."""
        drawn = torch.rand(batch.number, x.shape[1], generator=noise, dtype=x.dtype, device=x.device)
        return x * (drawn[batch.part] >= self.settings.input_dropout)

    def _validated(self, number: int) -> float:
        self.average.eval()
        nll, weight = nll_over(self.average, self.valid, _EVALUATED, self.processes, number)
        if self.processes.count == 1:
            return mean_of(self.valid.name, nll, weight)
        sums = [float(nll.sum()), len(nll)] if weight is None else [float((weight * nll).sum()), float(weight.sum())]
        total, everything = self.processes.sum(sums)
        if not everything:
            raise ValueError(_weightless(self.valid.name))
        return total / everything

    def save(self, path: Path) -> None:
        """Write the checkpoint, in the first process."""
        self.processes.of_first(lambda: checkpoints.write(path, self._state()))

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self._told(),
            "data": {rows.name: rows.digest(self.model) for rows in (self.train, self.valid)},
            "description": repr(self.model),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "history": [dataclasses.astuple(epoch) for epoch in self.history],
        }

    def _told(self) -> dict[str, Any]:
        told = dataclasses.asdict(self.settings)
        return {**told, "optimizer": self.described} if self.is_own else told

    def restore(self, path: Path) -> None:
        """Take up the state that ``save`` wrote, or say why this run is not its continuation."""
        state = self.processes.of_first(lambda: checkpoints.read(path))
        try:
            self._check_same(state, path)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best_state = {name: state["best"][name] for name in state["average"]}
            self.steps = operator.index(state["steps"])
            self.history = [Epoch(*values) for values in state["history"]]
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"checkpoint {path} is damaged: delete it, start anew") from error

    def _check_same(self, state: dict[str, Any], path: Path) -> None:
        """Raises ValueError if a state is that of another run."""
        told, now = state["settings"], self._told()
        for name in dict.fromkeys([*now, *told]):
            if told.get(name) != now.get(name):
                argument = "epochs of schedule='cosine'" if name == "cosine_epochs" else name
                raise ValueError(f"{argument} must be {told.get(name)} as in checkpoint {path}, got {now.get(name)}")
        for rows in (self.train, self.valid):
            if state["data"][rows.name] != rows.digest(self.model):
                raise ValueError(
                    f"checkpoint {path} was made with other data: {rows.name} must be the same rows, or start anew"
                )
        present = self.model.state_dict()
        same = state["description"] == repr(self.model) and state["model"].keys() == present.keys()
        buffers = present.keys() - dict(self.model.named_parameters()).keys()
        if not same or not all(torch.equal(state["model"][name], present[name].cpu()) for name in buffers):
            raise ValueError(f"checkpoint {path} was made with another model: resume with the same, or start anew")


@torch.no_grad()
def nll_over(
    model: nn.Module, rows: Rows, size: int, processes: Processes = ALONE, epoch: int = 1
) -> tuple[Tensor, Tensor | None]:
    """``-log p`` of all rows of this process, fp64 on the CPU (n,), and their weights (n,); None if there are none."""
    like = next(model.parameters())
    nll, weights, first = [torch.zeros(0, dtype=torch.float64)], list[Tensor | None](), 0
    for parts in rows.in_order(size, processes, epoch):
        try:
            given = [None if each is None else like_model(like, each) for each in parts[:2]]
            nll.append(nll_of(model, cast(Tensor, given[0]), given[1]).double().cpu())
        except ValueError:
            refuse_strange(rows.name, parts, first=first)
            raise
        weights.append(parts.weight)
        first += len(parts.x)
    if all(each is None for each in weights):
        return torch.cat(nll), None
    sizes = [len(each) for each in nll[1:]]
    filled = [torch.ones(n) if each is None else each for n, each in zip(sizes, weights, strict=True)]
    return torch.cat(nll), torch.cat([each.double().cpu() for each in filled])


def mean_of(name: str, nll: Tensor, weight: Tensor | None) -> float:
    """The weighted mean (n,).

    Raises:
        ValueError: no row has weight.
    """
    if weight is None:
        return nll.mean().item()
    if not weight.any():
        raise ValueError(_weightless(name))
    return ((weight * nll).sum() / weight.sum()).item()


def _weightless(name: str) -> str:
    return f"weight of {name} must not be 0 in all rows, got nothing but zeros"


def _kinds_of(model: nn.Module) -> dict[int, torch.dtype]:
    return {id(each): each.dtype for each in model.parameters()}


def _may_draw(model: nn.Module) -> bool:
    """Whether a module may draw random numbers of torch's own generator: what is not known may."""
    for each in model.modules():
        known = type(each).__module__.startswith(("torch.nn.", "made_fast."))
        if not known or isinstance(each, _DRAWING) or each._forward_hooks or each._forward_pre_hooks:
            return True
    return False


def _use_mask_of(model: nn.Module, step: int) -> None:
    """Gives an ensemble the mask that ``next_mask`` would have come to, whether or not this run began at step 0."""
    num_masks = cast(int, getattr(model, "num_masks", 1))
    if num_masks != 1:
        cast(Any, model).mask_index = step % num_masks if num_masks else step


def _reductions(improved: Iterable[bool], after: int) -> int:
    """How often ``after`` epochs in a row were no improvement, counting anew after each time."""
    waited, reductions = 0, 0
    for better in improved:
        waited = 0 if better else waited + 1
        if waited == after:
            reductions, waited = reductions + 1, 0
    return reductions
