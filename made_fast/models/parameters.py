"""From the last hidden layer to parameters and log-probabilities; many parameters are never all held at once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from made_fast.layers.encoder import read, read_layer
from made_fast.layers.linear import masked_linear
from made_fast.outputs.output import log_prob

if TYPE_CHECKING:
    from made_fast.layers.linear import MaskedLinear
    from made_fast.models.made import MADE

__all__ = ["log_prob_of", "parameters_of"]

# Parameters of a whole batch (128 MB in fp32) above which they are made, used and made again in the backward pass some
# variables at a time, and about how many are made at once.
_TOO_MANY, _AT_ONCE = 1 << 25, 1 << 22


class _Rows(NamedTuple):
    """Rows of a masked layer: what makes the parameters of some variables."""

    weight: Tensor
    mask: Tensor
    bias: Tensor | None


class _Weights(NamedTuple):
    """Everything that makes the parameters of some variables from what comes before."""

    params: _Rows
    direct: _Rows | None
    context: Tensor | None


def _rows_of(layer: MaskedLinear, mask: Tensor | None) -> _Rows:
    return _Rows(layer.weight, layer.chosen_mask(mask), layer.bias_under(mask))


def _weights(model: MADE, own: list[Tensor | None]) -> _Weights:
    direct = None if model.direct_layer is None else _rows_of(model.direct_layer, own[-1])
    context = None if model.context_direct_layer is None else model.context_direct_layer.weight
    return _Weights(_rows_of(model.parameters_layer, own[len(model.hidden)]), direct, context)


def parameters_of(
    model: MADE, x: Tensor, hidden: Tensor | None, context: Tensor | None, own: list[Tensor | None]
) -> Tensor:
    """Parameters (..., P) from x (..., D) and the last hidden layer (..., H) or None.

    Args:
        model: whose layers are used.
        x, hidden, context: as ``MADE.forward`` has them.
        own: the mask of each masked layer, or None for that of its own.
    """
    layer, mask, encoder = model.parameters_layer, own[len(model.hidden)], model.encoder
    params: Tensor = read_layer(encoder, x, layer, mask) if hidden is None else layer(hidden, mask)
    if model.direct_layer is not None:
        params = params + read_layer(encoder, x, model.direct_layer, own[-1])
    if model.context_direct_layer is not None:
        params = params + model.context_direct_layer(context)
    return params


def log_prob_of(
    model: MADE, x: Tensor, hidden: Tensor | None, context: Tensor | None, own: list[Tensor | None]
) -> Tensor:
    """log p(x) in nats, (...); the arguments are those of ``parameters_of``."""
    batch, num_params = x.shape[:-1].numel(), sum(model.params_per_variable)
    if torch.compiler.is_compiling() or batch * num_params <= _TOO_MANY:
        return _log_prob(model, parameters_of(model, x, hidden, context, own), x, 0, model.features)
    bounds, size = [0], 0
    for variable, count in enumerate(model.params_per_variable):
        size += count
        if size * batch >= _AT_ONCE or variable == model.features - 1:
            bounds.append(variable + 1)
            size = 0
    total = x.new_zeros(batch).reshape(x.shape[:-1])
    parts = _split(_weights(model, own), [sum(model.params_per_variable[a:b]) for a, b in pairwise(bounds)])
    for (first, last), part in zip(pairwise(bounds), parts, strict=True):
        arguments = (model, x, hidden, context, part, first, last)
        total = total + checkpoint(_log_prob_of_part, *arguments, use_reentrant=False, preserve_rng_state=False)
    return total


def _log_prob(model: MADE, params: Tensor, x: Tensor, first: int, last: int) -> Tensor:
    """The share of the variables [first, last), whose parameters these are."""
    x = x[..., first:last]
    if params.dtype in (torch.bfloat16, torch.float16):  # half precision would lose the sum over variables
        params, x = params.float(), x.float()
    return log_prob(model.conditionals[first:last], params, x).sum(-1)


def _log_prob_of_part(
    model: MADE, x: Tensor, hidden: Tensor | None, context: Tensor | None, weights: _Weights, first: int, last: int
) -> Tensor:
    own = weights.params
    params = read(model.encoder, x, *own) if hidden is None else masked_linear(hidden, *own)
    if weights.direct is not None:
        params = params + read(model.encoder, x, *weights.direct)
    if weights.context is not None and context is not None:
        params = params + F.linear(context, weights.context)
    return _log_prob(model, params, x, first, last)


def _split(weights: _Weights, sizes: list[int]) -> list[_Weights]:
    """Rows of all layers in parts of these sizes; by ``split``, whose gradients are put together in one piece."""

    def parts(rows: _Rows | None) -> list[_Rows] | list[None]:
        if rows is None:
            return [None] * len(sizes)
        height, biases = rows.weight.shape[0], [None] * len(sizes) if rows.bias is None else rows.bias.split(sizes)
        masks = rows.mask[:height].split(sizes)
        if rows.mask.ndim == 1:  # degrees: those of the columns belong to every part
            masks = tuple(torch.cat([mask, rows.mask[height:]]) for mask in masks)
        return [_Rows(*each) for each in zip(rows.weight.split(sizes), masks, biases, strict=True)]

    contexts = [None] * len(sizes) if weights.context is None else weights.context.split(sizes)
    return [_Weights(*each) for each in zip(parts(weights.params), parts(weights.direct), contexts, strict=True)]  # type: ignore[arg-type]
