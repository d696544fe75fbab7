"""Maximum-likelihood training: minibatch AdamW, averaged weights, early stopping, and a checkpoint that resumes exactly.

Nothing here depends on how far a run came in one go. All randomness of epoch e (row order, input noise) comes from
generators seeded with (seed, e), and the learning rate of epoch e from the validation figures before it, so that a run
that was killed and resumed gives the numbers of an uninterrupted one.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from made_fast.arguments import positive_number, real_number, tensor_of, whole_number
from made_fast.files import written_whole
from made_fast.training.steps import adamw_of, nll_of, steps_of

__all__ = ["Epoch", "History", "TrainingError", "evaluate", "fit"]

_FORMAT = 2  # of the checkpoint file
_DECAY = 0.3  # factor on the learning rate after each run of epochs without improvement


class TrainingError(ValueError):
    """The loss is not finite, so that going on with these settings is pointless."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows gave.

    Attributes:
        number: 1 for the first.
        train_nll: mean over the epoch's minibatches in nats a row, with the weights and the input noise of the moment.
        valid_nll: mean over the validation rows in nats a row, with the averaged weights and no noise.
        improved: whether ``valid_nll`` is the lowest so far.
        learning_rate: that of the epoch.
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
        stopped: ``"epochs"``, ``"patience"`` or ``"time"``.
    """

    epochs: tuple[Epoch, ...]
    best: Epoch
    stopped: str


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What determines the numbers of an epoch; a resumed run must have the same."""

    batch_size: int
    learning_rate: float
    weight_decay: float
    input_dropout: float
    averaging: float
    decay_after: int
    seed: int


def fit(
    model: nn.Module,
    train: Tensor,
    valid: Tensor,
    *,
    epochs: int = 200,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    input_dropout: float = 0.0,
    averaging: float = 0.9995,
    decay_after: int = 5,
    patience: int = 15,
    seed: int = 0,
    max_minutes: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Fit a model by maximum likelihood and leave it with the weights that validated best.

    Minimises the mean of ``-log p(x)`` over ``train`` with AdamW. What is validated and returned is not the last iterate
    but the moving average ``a <- averaging * a + (1 - averaging) * w`` over the steps, which removes the noise of a
    constant learning rate.

    Args:
        model: has ``log_prob(x)`` and, for ``input_dropout``, ``distribution(x)``; its parameters' device and dtype rule.
            An ensemble has its next mask for each minibatch, and is validated as a whole.
        train: ``(N, D)`` of any dtype, on any device; converted a minibatch at a time.
        valid: ``(N, D)`` likewise; decides on the best weights, on decay and on stopping.
        epochs: stop after so many in all, those before a resume included.
        batch_size: rows of a minibatch.
        learning_rate: of AdamW.
        weight_decay: of AdamW, decoupled, on matrices and not on biases.
        input_dropout: probability with which the network sees an input as 0; the loss always sees the true value.
        averaging: what the moving average keeps at each step, in [0, 1); 0 for none. It is shorter at the start.
        decay_after: epochs in a row without improvement after which the learning rate is multiplied by 0.3.
        patience: epochs in a row without improvement after which to stop.
        seed: of row order and noise, which touch no generator outside. The same seed, initial weights and number of
            threads give the same numbers again.
        max_minutes: stop before an epoch that would end later, counting the time before a resume.
        checkpoint: file to write after each epoch, whole or not at all.
        resume: start from ``checkpoint``, which must exist.
        progress: show a bar on a terminal.
        on_epoch: called after each epoch, with the checkpoint already written.

    Returns:
        All epochs and the best one.

    Raises:
        ValueError: if an argument is out of range, the shapes do not fit, or the checkpoint is damaged or another run's.
        FileNotFoundError: if there is nothing to resume from.
        TrainingError: if the loss is not finite.
    """
    train, valid = _checked_rows("train", train), _checked_rows("valid", valid)
    if train.shape[1] != valid.shape[1]:
        raise ValueError(f"valid must have {train.shape[1]} columns like train, got {valid.shape[1]}")
    epochs, patience = whole_number("epochs", epochs, 1), whole_number("patience", patience, 1)
    decay = real_number("weight_decay", weight_decay)
    if not 0 <= decay < math.inf:
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")
    settings = _Settings(
        whole_number("batch_size", batch_size, 1),
        positive_number("learning_rate", learning_rate),
        decay,
        _share("input_dropout", input_dropout),
        _share("averaging", averaging),
        whole_number("decay_after", decay_after, 1),
        whole_number("seed", seed, None),
    )
    if max_minutes is not None and not real_number("max_minutes", max_minutes) > 0:
        raise ValueError(f"max_minutes must be a positive number, got {max_minutes}")
    if not torch.is_grad_enabled():
        raise ValueError("fit must be called with gradients enabled, got torch.no_grad or inference_mode")
    was_training = model.training
    run = _Run(model, train, valid, settings)
    if resume:
        if checkpoint is None:
            raise ValueError("checkpoint must name the file to resume from, got None")
        run.restore(Path(checkpoint))
    while (stopped := run.why_stop(epochs, patience, max_minutes)) is None:
        run.next_epoch(progress=progress)
        if checkpoint is not None:
            run.save(Path(checkpoint))
        if on_epoch is not None:
            on_epoch(run.history[-1])
    model.load_state_dict(run.best_state)
    model.train(was_training)
    return History(tuple(run.history), run.history[run.best], stopped)


@torch.no_grad()
def evaluate(model: nn.Module, data: Tensor, batch_size: int = 1000) -> tuple[float, float]:
    """Mean negative log-likelihood of some rows and how far chance may have moved it.

    Args:
        model: has ``log_prob(x)``; its parameters' device and dtype rule.
        data: ``(N, D)`` of any dtype, on any device, N of 1 or more.
        batch_size: rows at a time; bounds the memory, does not change the figure.

    Returns:
        The mean of ``-log p(x)`` in nats a row, and the half-width of its 95% interval, ``1.96 * std / sqrt(N)``
        (infinite for one row).

    Raises:
        ValueError: if there are no rows or ``batch_size`` is below 1.
    """
    data, batch_size = _checked_rows("data", data), whole_number("batch_size", batch_size, 1)
    was_training = model.training
    model.eval()
    nll = torch.cat([nll_of(model, _rows_for(model, rows)).double().cpu() for rows in data.split(batch_size)])
    model.train(was_training)
    half_width = 1.96 * nll.std().item() / math.sqrt(len(nll)) if len(nll) > 1 else math.inf
    return nll.mean().item(), half_width


def _checked_rows(name: str, rows: object) -> Tensor:
    """Rows (N, D), N of 1 or more, as a tensor."""
    tensor = tensor_of(name, rows)
    if tensor.ndim != 2 or not len(tensor):
        raise ValueError(f"{name} must have shape (N, D) with N of 1 or more, got {tuple(tensor.shape)}")
    return tensor


def _share(name: str, value: object) -> float:
    share = real_number(name, value)
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return share


def _rows_for(model: nn.Module, rows: Tensor) -> Tensor:
    """Rows in the dtype of the weights, on their device; whole numbers stay what they are."""
    like = next(model.parameters())
    if not rows.is_floating_point() and rows.dtype.itemsize > 1 and rows.numel():
        largest, limit = int(rows.abs().max()), round(2 / torch.finfo(like.dtype).eps)
        if largest > limit:
            raise ValueError(f"rows must be at most {limit} to be exact in {like.dtype}, got {largest}")
    return rows.to(device=like.device, dtype=like.dtype)


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


class _Run:
    """The state of a run between two epochs: all that a checkpoint holds."""

    def __init__(self, model: nn.Module, train: Tensor, valid: Tensor, settings: _Settings) -> None:
        self.model, self.train, self.valid, self.settings = model, train, valid, settings
        self.average = copy.deepcopy(model)
        self.optimizer = adamw_of(model, settings.learning_rate, settings.weight_decay)
        self.history: list[Epoch] = []
        self.best_state: dict[str, Tensor] = {}
        self._digests: dict[int, str] = {}

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
        reductions = _reductions((epoch.improved for epoch in self.history), self.settings.decay_after)
        rate = self.settings.learning_rate * _DECAY**reductions
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed * 1_000_003 + number)
            train_nll = self._pass_over_rows(number, progress=progress)
        valid_nll, _ = evaluate(self.average, self.valid)
        if not math.isfinite(valid_nll):
            raise TrainingError(f"valid NLL is {valid_nll} in epoch {number}: lower the learning rate, now {rate:g}")
        improved = all(valid_nll < epoch.valid_nll for epoch in self.history)
        self.history.append(Epoch(number, train_nll, valid_nll, improved, rate, time.monotonic() - start))
        if improved:
            self.best_state = {name: value.detach().clone() for name, value in self.average.state_dict().items()}

    def _pass_over_rows(self, number: int, *, progress: bool) -> float:
        self.model.train()
        batches = torch.randperm(len(self.train)).split(self.settings.batch_size)
        bar = tqdm(batches, f"epoch {number}", leave=False, disable=None if progress else True)
        total = 0.0
        with steps_of(self.model, self.average, self.optimizer, self.settings.input_dropout) as steps:
            for index, batch in enumerate(bar):
                step = (number - 1) * len(batches) + index
                _use_mask_of(self.model, step)
                value = steps.gradients(_rows_for(self.model, self.train[batch.to(self.train.device)]))
                if not math.isfinite(value):
                    rate = self.optimizer.param_groups[0]["lr"]
                    raise TrainingError(f"loss is {value} in epoch {number}: lower the learning rate, now {rate:g}")
                # Of the average more is given up at first, else the first weights would linger.
                steps.update(min(self.settings.averaging, (1 + step) / (10 + step)))
                total += value * len(batch)
        return total / len(self.train)

    def save(self, path: Path) -> None:
        """Write the checkpoint under another name, then rename it: a kill leaves the old one or the new one."""
        state = {
            "format": _FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "data": {"train": self._digest(self.train), "valid": self._digest(self.valid)},
            "description": repr(self.model),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "history": [dataclasses.astuple(epoch) for epoch in self.history],
        }
        written = io.BytesIO()
        torch.save(state, written)  # not to the disk: of a full one torch says "unexpected pos", a RuntimeError
        with written_whole(path) as partial:
            partial.write_bytes(written.getbuffer())

    def restore(self, path: Path) -> None:
        """Take up the state that ``save`` wrote, or say why this run is not its continuation."""
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint to resume from at {path}: start without resume")
        with open(path, "rb") as file:
            try:
                bad = zipfile.ZipFile(file).testzip()  # torch does not look at the sums that it writes
                if bad is not None:
                    raise zipfile.BadZipFile(f"{bad} is not what was written")
                file.seek(0)
                state = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever torch makes of bytes that were not written by it
                raise ValueError(f"checkpoint {path} is damaged or no checkpoint: delete it, start anew") from error
        found = state.get("format") if isinstance(state, dict) else None
        if not isinstance(found, int) or found != _FORMAT:
            raise ValueError(f"checkpoint {path} was not written by this version of made_fast: delete it, start anew")
        try:
            self._check_same(state, path)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best_state = {name: state["best"][name] for name in state["average"]}
            self.history = [Epoch(*values) for values in state["history"]]
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"checkpoint {path} is damaged: delete it, start anew") from error

    def _check_same(self, state: dict[str, Any], path: Path) -> None:
        """Raises ValueError if a state is that of another run."""
        for name, value in dataclasses.asdict(self.settings).items():
            if state["settings"].get(name) != value:
                raise ValueError(f"{name} must be {state['settings'].get(name)} as in checkpoint {path}, got {value}")
        for name, rows in (("train", self.train), ("valid", self.valid)):
            if state["data"][name] != self._digest(rows):
                raise ValueError(
                    f"checkpoint {path} was made with other data: {name} must be the same rows, or start anew"
                )
        present = self.model.state_dict()
        same = state["description"] == repr(self.model) and state["model"].keys() == present.keys()
        buffers = present.keys() - dict(self.model.named_parameters()).keys()
        if not same or not all(torch.equal(state["model"][name], present[name].cpu()) for name in buffers):
            raise ValueError(f"checkpoint {path} was made with another model: resume with the same, or start anew")

    def _digest(self, rows: Tensor) -> str:
        """SHA-256 of the shape and the values that the model sees; computed once."""
        key = id(rows)
        if key not in self._digests:
            digest = hashlib.sha256(repr(tuple(rows.shape)).encode())
            for part in rows.split(1 << 14):
                digest.update(_rows_for(self.model, part).double().cpu().contiguous().numpy().data)
            self._digests[key] = digest.hexdigest()
        return self._digests[key]
