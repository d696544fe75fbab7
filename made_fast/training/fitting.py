"""Maximum-likelihood training: minibatch AdamW, averaged weights, early stopping, and a checkpoint that resumes exactly.

Nothing here depends on how far a run came in one go. All randomness of epoch e (row order, input noise) comes from
generators seeded with (seed, e), and the learning rate of epoch e from the validation figures before it, so that a run
that was killed and resumed gives the numbers of an uninterrupted one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from made_fast.arguments import flag, one_of, positive_number, real_number, shown, whole_number
from made_fast.training.batches import rows_of
from made_fast.training.history import Epoch, History, TrainingError
from made_fast.training.layout import Layout
from made_fast.training.optimizers import MakeOptimizer
from made_fast.training.processes import ALONE, Processes
from made_fast.training.rows import TensorRows
from made_fast.training.run import SCHEDULES, Run, Settings, mean_of, nll_over
from made_fast.training.values import refuse_strange_rows, warn_of_scales

__all__ = ["Epoch", "History", "TrainingError", "evaluate", "fit", "interval_of"]

Data = Tensor | Dataset[Any] | Iterable[Any]


def fit(
    model: nn.Module,
    train: Data,
    valid: Data,
    *,
    context: Tensor | None = None,
    weight: Tensor | None = None,
    valid_context: Tensor | None = None,
    valid_weight: Tensor | None = None,
    epochs: int = 200,
    batch_size: int = 100,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    input_dropout: float = 0.0,
    averaging: float = 0.9995,
    schedule: str = "plateau",
    decay_after: int = 5,
    patience: int = 15,
    seed: int = 0,
    max_minutes: float | None = None,
    device: torch.device | str | None = None,
    distributed: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> History:
    r"""Fit a model by maximum likelihood and leave it with the weights that validated best.

    Minimises the mean of ``-log p(x)`` over ``train``, or of ``-log p(x | context)``, with AdamW. What is validated and
    returned is not the last iterate but the moving average ``a <- averaging * a + (1 - averaging) * w`` over the steps, which
    removes the noise of a constant learning rate.

    ``train`` and ``valid`` are tensors (N, D) of any dtype, on any device, memory-mapped ones too, converted a minibatch at a
    time; or what gives rows otherwise, data larger than memory among it:

    - a data set with ``__len__`` and ``__getitem__``, whose rows come in an order from ``seed`` as those of a tensor do;
    - a ``DataLoader``, a list of batches, or any iterable of them that begins anew each time. Its batches and their order
      are its own, ``batch_size`` is not read.

    A batch is x (B, D); or a tuple ``(x,)``, ``(x, context)`` or ``(x, context, weight)``, as a ``TensorDataset`` gives them;
    or a mapping with these names. ``(x, None, weight)`` and ``{"x": x, "weight": weight}`` have weights without a context.

    With weights :math:`w_i` the loss of a minibatch, and likewise each figure, is :math:`\sum_i w_i\,(-\log p(x_i)) / \sum_i
    w_i`. A minibatch whose weights are all 0 is passed over.

    Where ``torch.distributed`` has been initialised, its processes share each minibatch: see ``distributed``.

    Args:
        model: has ``log_prob(x)`` or ``log_prob(x, context)`` and, for ``input_dropout``, ``distribution`` of the same; its
            parameters' device and dtype rule. An ensemble has its next mask for each minibatch, and is validated as a whole.
        train: the rows to learn from.
        valid: those that decide on the best weights, on decay and on stopping.
        context: (N, C) of the rows of ``train``, where that is a tensor and the model takes a context.
        weight: (N,) of the rows of ``train``, where that is a tensor: finite, 0 or more, not all 0.
        valid_context, valid_weight: of ``valid`` likewise.
        epochs: stop after so many in all, those before a resume included; a cosine ends with them.
        batch_size: rows of a minibatch.
        learning_rate: of AdamW, 1e-3 if left out.
        weight_decay: of AdamW, decoupled, on matrices and not on biases; 0.1 if left out.
        optimizer: in place of AdamW: a function that makes one of the list of parameters, or one over parameters of the
            model. Its learning rates are its own, and fall by ``schedule`` too.
        input_dropout: probability with which the network sees an input as 0; the loss always sees the true value.
        averaging: what the moving average keeps at each step, in [0, 1); 0 for none. It is shorter at the start.
        schedule: of the learning rate: ``"plateau"`` lets it fall as ``decay_after`` says; ``"cosine"`` as half a cosine, to
            ``(1 + cos(pi * (e - 1) / epochs)) / 2`` of it in epoch e. A resumed run must have the same ``epochs`` then.
        decay_after: epochs in a row without improvement after which the learning rate is multiplied by 0.3, on a plateau.
        patience: epochs in a row without improvement after which to stop.
        seed: of row order and noise. The same seed, initial weights and number of threads give the same numbers again. Models
            of this package touch no generator outside, and may be fitted in several threads at once. While others are fitted,
            which may have dropout inside, or while a loader gives the batches, torch's global generator is seeded too, and
            given back after each epoch: threads would share it.
        max_minutes: stop before an epoch that would end later, counting the time before a resume.
        device: where the model is moved to, for good, and rows minibatch by minibatch.
        distributed: whether the processes of ``torch.distributed`` share the work, if there are several. They call ``fit``
            alike, begin with the weights of the first, and end with the same. Each takes its part of each minibatch of the
            same rows (of a ``DataLoader`` with a ``DistributedSampler`` all that it is given); gradients and figures are
            those of the whole. The first alone writes and reads the checkpoint.
        checkpoint: file to write after each epoch, whole or not at all.
        resume: start from ``checkpoint``, which must exist. Tensors must be those of the run before. Of what gives rows
            otherwise nothing is compared: the resumed run is exact if epoch e has the rows that it would have had. So it is
            of a ``DataLoader`` that shuffles, unless with a generator of its own; ``set_epoch(e)`` is called before epoch e
            of a loader, its sampler and its data set, where they have it.
        progress: show a bar on a terminal.
        on_epoch: called after each epoch, in every process, with the checkpoint already written; ``True`` stops the run.

    Returns:
        All epochs and the best one.

    Raises:
        ValueError: if an argument is out of range, the shapes do not fit, or the checkpoint is damaged or another run's.
        FileNotFoundError: if there is nothing to resume from.
        TrainingError: if the loss is not finite.

    Warns:
        UserWarning: columns of real numbers are so far from mean 0 and deviation 1 that they may never be fitted.
    """
    _check_model(model)
    own = optimizer is not None
    epochs, patience = whole_number("epochs", epochs, 1), whole_number("patience", patience, 1)
    settings = Settings(
        whole_number("batch_size", batch_size, 1),
        _of_adamw("learning_rate", learning_rate, 1e-3, own=own),
        _of_adamw("weight_decay", weight_decay, 0.1, own=own),
        _share("input_dropout", input_dropout),
        _share("averaging", averaging),
        whole_number("decay_after", decay_after, 1),
        whole_number("seed", seed, None),
        epochs if one_of("schedule", schedule, SCHEDULES) == "cosine" else None,
    )
    if max_minutes is not None and not real_number("max_minutes", max_minutes) > 0:
        raise ValueError(f"max_minutes must be a positive number, got {max_minutes}")
    if settings.input_dropout and not any(hasattr(model, name) for name in ("distribution", "_log_prob_seeing")):
        raise ValueError(f"input_dropout must be 0 for a model without distribution, got {input_dropout}")
    if resume and checkpoint is None:
        raise ValueError("checkpoint must name the file to resume from, got None")
    layout = Layout(model)
    rows = (
        rows_of("train", train, layout, context, weight),
        rows_of("valid", valid, layout, valid_context, valid_weight),
    )
    if device is not None:
        _move(model, device)
    for each in rows:
        if isinstance(each, TensorRows):
            refuse_strange_rows(model, each)
    if isinstance(rows[0], TensorRows):
        warn_of_scales(model, "train", rows[0].parts.x, stacklevel=2)
    processes = Processes.of(next(model.parameters()).device) if flag("distributed", distributed) else ALONE
    processes.check_alike((settings, *(each.summary() for each in rows), checkpoint is None, resume, epochs, patience))
    processes.share_weights(model)
    was_training = model.training
    run = Run(model, *rows, settings, optimizer, processes)
    if resume:
        run.restore(Path(checkpoint))  # type: ignore[arg-type]
    stopped = run.why_stop(epochs, patience, max_minutes)
    while stopped is None:
        run.next_epoch(progress=progress and processes.rank == 0)
        if checkpoint is not None:
            run.save(Path(checkpoint))
        answer = None if on_epoch is None else on_epoch(run.history[-1])
        enough = processes.most([isinstance(answer, (bool, np.bool_)) and bool(answer)])[0]
        stopped = "on_epoch" if enough else run.why_stop(epochs, patience, max_minutes)
    model.load_state_dict(run.best_state)
    model.train(was_training)
    return History(tuple(run.history), run.history[run.best], stopped)


def evaluate(
    model: nn.Module,
    data: Data,
    batch_size: int = 1000,
    *,
    context: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[float, float]:
    r"""Mean negative log-likelihood of some rows and how far chance may have moved it.

    Args:
        model: has ``log_prob(x)`` or ``log_prob(x, context)``; its parameters' device and dtype rule.
        data: ``(N, D)`` of any dtype, on any device, N of 1 or more; or whatever gives rows, as for ``fit``. One pass is
            made, so that an iterator will do.
        batch_size: rows at a time; bounds the memory, does not change the figure.
        context: (N, C) of the rows, where those are a tensor and the model takes a context.
        weight: (N,) of the rows, where those are a tensor.

    Returns:
        The mean of ``-log p(x)`` in nats a row, with weights :math:`\sum_i w_i\,(-\log p(x_i)) / \sum_i w_i`; and the
        half-width of its 95% interval, ``1.96 * std / sqrt(N)``, with weights that of the ratio (infinite for one row).

    Raises:
        ValueError: if there are no rows, the shapes do not fit, or ``batch_size`` is below 1.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    rows = rows_of("data", data, Layout(model), context, weight, once=True)
    was_training = model.training
    model.eval()
    try:
        nll, weights = nll_over(model, rows, batch_size)
    finally:
        model.train(was_training)
    return interval_of("data", nll, weights)


def interval_of(name: str, nll: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    """The mean of some rows and the half-width of its 95% interval, see ``evaluate``.

    Args:
        name: of the rows, for messages.
        nll: (N,) fp64.
        weight: (N,) or None.

    Raises:
        ValueError: no row has weight.
    """
    mean, count = mean_of(name, nll, weight), len(nll)
    if count < 2:
        return mean, math.inf
    if weight is None:
        return mean, 1.96 * nll.std().item() / math.sqrt(count)
    error = (weight * (nll - mean)).square().sum().sqrt() / weight.sum()
    return mean, 1.96 * error.item() * math.sqrt(count / (count - 1))


def _check_model(model: nn.Module) -> None:
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise ValueError(
            f"model must be the module itself, got {type(model).__name__} around it: give model.module; the processes of "
            "torch.distributed share the rows without it"
        )
    if next(model.parameters(), None) is None:
        raise ValueError("model must have parameters to be fitted, got none")
    if not torch.is_grad_enabled():
        raise ValueError("fit must be called with gradients enabled, got torch.no_grad or inference_mode")


def _of_adamw(name: str, value: float | None, default: float, *, own: bool) -> float:
    """A setting of AdamW, which an optimizer of one's own does not read."""
    if own and value is not None:
        raise ValueError(f"{name} must be left out beside optimizer, which has its own, got {shown(value)}")
    if value is None:
        return default
    if name == "learning_rate":
        return positive_number(name, value)
    number = real_number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be 0 or more, got {value}")
    return number


def _share(name: str, value: object) -> float:
    share = real_number(name, value)
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return share


def _move(model: nn.Module, device: torch.device | str) -> None:
    """Moves a model to a device on which numbers can be kept."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        why = str(error).strip().split("\n", 1)[0]
        raise ValueError(f"device must be one that this machine has, got {shown(device)}: {why}") from error
    model.to(found)
