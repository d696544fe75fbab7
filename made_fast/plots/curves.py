"""Curves: how a training went, and how even weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from made_fast.arguments import shown, tensor_of, with_values
from made_fast.plots.panels import BLUE, GREY, INK, ORANGE, one_panel
from made_fast.sampling.estimates import effective_sample_size, least_effective
from made_fast.sampling.weighted import ScoredSamples, WeightedSamples
from made_fast.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["training_curve", "weights"]

_CUT = 0.5  # of the learning rate before: a change to this share or less is a cut


def training_curve(history: History, *, ax: Any = None) -> Axes:
    """Draws the mean negative log-likelihood of training and validation rows by epoch, in nats a row.

    The best epoch, whose weights the model has, is marked, and so are epochs before which the learning rate fell to half or
    less.

    Args:
        history: what ``fit`` returned, of one epoch or more.
        ax: where to draw; a figure of its own if left out.

    Raises:
        ValueError: the history is empty or none.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not isinstance(history, History):
        raise ValueError(f"history must be a History of made_fast.training, got {shown(history)}")
    if not history.epochs:
        raise ValueError("history must have at least one epoch, got none")
    axes = one_panel(ax)
    from matplotlib.ticker import MaxNLocator

    numbers = [epoch.number for epoch in history.epochs]
    alone = "o" if len(numbers) == 1 else ""  # a line of one point is not seen
    axes.plot(numbers, [epoch.train_nll for epoch in history.epochs], color=GREY, marker=alone, label="training rows")
    axes.plot(numbers, [epoch.valid_nll for epoch in history.epochs], color=BLUE, marker=alone, label="validation rows")
    best = history.best
    label = f"best: epoch {best.number}, {best.valid_nll:.4g}"
    axes.plot([best.number], [best.valid_nll], color=ORANGE, marker="o", linestyle="", label=label, zorder=3)
    label = "learning rate cut"
    for before, after in zip(history.epochs, history.epochs[1:], strict=False):
        if after.learning_rate <= _CUT * before.learning_rate:
            axes.axvline(after.number - 0.5, color=INK, linewidth=0.8, linestyle=":", label=label, zorder=0)
            label = "_"  # once in the legend
    axes.set_xlabel("epoch")
    axes.set_ylabel(r"$-\log p$, nats a row")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize="small")
    return axes


def weights(drawn: WeightedSamples | ScoredSamples | Tensor, *, ax: Any = None) -> Axes:
    """Draws how even the weights of samples are.

    Of one condition: the share of all weight that the heaviest samples have, beside the straight line of equal weights. Of
    several: how many of them have which effective sample size, and the size below which ``sample`` warns.

    Args:
        drawn: samples under conditions, or their log-weights alone, (n,) or (N, n).
        ax: where to draw; a figure of its own if left out.

    Raises:
        ValueError: there are no weights, or they are nan or infinite above.
        ModuleNotFoundError: matplotlib is not installed.
    """
    given = drawn.log_weight if isinstance(drawn, (WeightedSamples, ScoredSamples)) else drawn
    log_weight = with_values("drawn", tensor_of("drawn", given)).detach().double().cpu()
    if log_weight.ndim not in (1, 2) or not log_weight.numel():
        raise ValueError(f"drawn must have log-weights (n,) or (N, n), one or more, got {tuple(log_weight.shape)}")
    wrong = log_weight.isnan() | torch.isposinf(log_weight)
    if bool(wrong.any()):
        raise ValueError(f"drawn must have log-weights below infinity, got {log_weight[wrong][0].item()}")
    axes = one_panel(ax, (4.6, 3.6))
    count, sizes = log_weight.shape[-1], effective_sample_size(log_weight).reshape(-1)
    if len(sizes) == 1:
        share = torch.softmax(log_weight.reshape(-1), 0).nan_to_num().sort(descending=True).values.cumsum(0)
        axes.plot(np.linspace(0, 1, count + 1), [0.0, *share.tolist()], color=BLUE)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="equal weights")
        axes.set_xlabel("share of the samples, heaviest first")
        axes.set_ylabel("share of the weight")
        axes.set_title(f"{count:,} samples are worth {float(sizes[0]):,.1f}", fontsize="medium")
        axes.legend(frameon=False, fontsize="small", loc="lower right")
        return axes
    axes.hist(sizes.numpy(), bins=np.linspace(0, count, 31).tolist(), color=BLUE)
    axes.axvline(least_effective(count), color=ORANGE, linestyle="--", label="below: a warning")
    axes.set_xlabel(f"effective sample size, of {count:,} samples")
    axes.set_ylabel(f"conditions, of {len(sizes):,}")
    axes.legend(frameon=False, fontsize="small")
    return axes
