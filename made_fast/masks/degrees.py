"""Orders, degrees and masks: the one place where the autoregressive order is defined.

An order says which variable is drawn when. Every unit of the network carries a degree, and one rule makes every mask:
a row is connected to a column iff ``row_degree >= column_degree``. The variable drawn at step ``s`` has input degree
``s + 1`` and its parameters have degree ``s``, so a parameter sees the variables drawn before its own and no others.

Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015, eq. 12-13
(with degrees counted from 0, so that units which see nothing but the context exist).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from made_fast.arguments import MOST_SEED, seed_number, whole_number

__all__ = [
    "connectivity",
    "hidden_degrees",
    "input_degrees",
    "layer_degrees",
    "make_order",
    "output_degrees",
    "rank_of",
]

ORDERS = ("natural", "reversed", "random", "raster", "columns")


def make_order(
    order: str | Sequence[int] | Tensor,
    features: int,
    *,
    seed: int = 0,
    image_shape: tuple[int, int] | None = None,
) -> Tensor:
    """Returns the drawing order: ``order[s]`` is the variable drawn at step ``s``.

    Args:
        order: ``"natural"`` (0, 1, ...), ``"reversed"``, ``"random"`` (a permutation drawn from ``seed``), ``"raster"``
            (an image row by row), ``"columns"`` (an image column by column), or any permutation of ``range(features)``.
        features: number of variables D.
        seed: seeds ``"random"`` and nothing else.
        image_shape: (height, width) for ``"raster"`` and ``"columns"``; a square image if left out.

    Returns:
        int64 tensor of shape (D,).

    Raises:
        ValueError: the name is unknown, the sequence is no permutation, or the image does not have D pixels.

    Examples:
        >>> make_order("columns", 6, image_shape=(2, 3))
        tensor([0, 3, 1, 4, 2, 5])
    """
    features = whole_number("features", features, 1)
    if not isinstance(order, str):
        return _explicit_order(order, features)
    if order in ("raster", "columns"):
        height, width = image_shape or (math.isqrt(features),) * 2
        if height * width != features:
            raise ValueError(f"image_shape must have {features} pixels for order {order!r}, got {(height, width)}")
        pixels = torch.arange(features).reshape(height, width)
        return (pixels if order == "raster" else pixels.T).reshape(-1).clone()
    if order == "natural":
        return torch.arange(features)
    if order == "reversed":
        return torch.arange(features - 1, -1, -1)
    if order == "random":
        return torch.randperm(features, generator=torch.Generator().manual_seed(seed_number("seed", seed)))
    raise ValueError(f"order must be one of {', '.join(ORDERS)} or a permutation, got {order!r}")


def _explicit_order(order: Sequence[int] | Tensor, features: int) -> Tensor:
    permutation = torch.as_tensor(order)
    integral = not (permutation.is_floating_point() or permutation.is_complex() or permutation.dtype == torch.bool)
    if (
        not integral
        or permutation.shape != (features,)
        or not torch.equal(permutation.sort().values.cpu(), torch.arange(features))
    ):
        shown = (
            permutation.tolist()
            if permutation.numel() <= 8
            else f"a {permutation.dtype} tensor of shape {tuple(permutation.shape)}"
        )
        raise ValueError(f"order must be a permutation of 0 .. {features - 1}, got {shown}")
    return permutation.to(device="cpu", dtype=torch.int64).clone()


def rank_of(order: Tensor) -> Tensor:
    """Returns the inverse of an order: ``rank[d]`` is the step at which variable ``d`` is drawn; int64, shape (..., D)."""
    steps = torch.arange(order.shape[-1], dtype=order.dtype, device=order.device)
    return torch.zeros_like(order).scatter_(-1, order, steps.expand_as(order))


def input_degrees(order: Tensor) -> Tensor:
    """Returns the degrees of the inputs, ``rank + 1``, for an order of shape (..., D); int64, shape (..., D)."""
    return rank_of(order) + 1


def output_degrees(order: Tensor, params_per_variable: Sequence[int]) -> Tensor:
    """Returns the degrees of the parameters, ``rank`` of their variable, variable-major; int64, shape (..., P).

    Args:
        order: shape (..., D).
        params_per_variable: K_d for each variable d; P is their sum.
    """
    return _repeated(rank_of(order), params_per_variable)


def hidden_degrees(
    width: int, features: int, *, context: bool = False, kind: str = "even", minimum: int = 0, seed: int = 0
) -> Tensor:
    """Returns sorted degrees for a hidden layer; int64, shape (H,).

    Degrees run up to ``D - 1``: a unit that sees all D variables could feed nothing. They start at 0 if there is a context
    (those units carry it to the first variable) and at 1 otherwise. ``"even"`` gives each degree the same number of units;
    with fewer units than degrees it keeps both ends, so that the last variable is still reached by all the others.

    Args:
        width: number of units H.
        features: number of variables D.
        context: whether the network has a context.
        kind: ``"even"``, or ``"random"`` (uniform, as in the paper).
        minimum: smallest degree of the layer below; random degrees below it would leave units without inputs.
        seed: seeds ``"random"``.

    Raises:
        ValueError: ``width`` is not positive, or ``kind`` is unknown.
    """
    if not 1 <= width < 1 << 40:  # what no memory holds, before torch overflows
        raise ValueError(f"width must be 1 or more, and below 2**40, got {width}")
    low = 0 if context or features == 1 else 1
    high = features - 1
    count = high - low + 1
    if kind == "random":
        low = max(low, min(minimum, high))
        generator = torch.Generator().manual_seed(seed & MOST_SEED)  # of a layer: that of the model and a little more
        drawn = torch.randint(low, high + 1, (width,), generator=generator)
        if context:
            drawn[0] = 0  # one unit at least carries the context to the first variable
        return drawn.sort().values
    if kind != "even":
        raise ValueError(f"degrees must be 'even' or 'random', got {kind!r}")
    index = torch.arange(width)
    if width >= count:
        return low + index * count // width
    if width == 1:
        return torch.tensor([low if context else high])
    return low + (index * (count - 1) * 2 + (width - 1)) // (2 * (width - 1))  # evenly spaced, rounded to nearest


def layer_degrees(
    order: Tensor,
    hidden: Sequence[Tensor],
    params_per_variable: Sequence[int],
    *,
    direct: bool,
    input_units: Sequence[int] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Returns the degrees of rows and columns of every masked layer: the hidden ones, the parameters, the direct one.

    Args:
        order: (..., D).
        hidden: (..., H) degrees of each hidden layer, from the input on. Without any, the parameters read the variables
            themselves if ``direct`` is set, and nothing if not.
        params_per_variable: K_d for each variable.
        direct: whether there are connections from the variables to the parameters.
        input_units: E_d for each variable, one for each if left out.
    """
    inputs, outputs = input_degrees(order), output_degrees(order, params_per_variable)
    if input_units is not None:
        inputs = _repeated(inputs, input_units)
    below = [inputs, *hidden]
    layers = list(zip(hidden, below, strict=False))
    if not hidden:
        return [(outputs if direct else torch.zeros_like(outputs), inputs)]  # inputs have degrees of 1 or more
    layers.append((outputs, below[-1]))
    return [*layers, (outputs, inputs)] if direct else layers


def connectivity(row_degrees: Tensor, column_degrees: Tensor) -> Tensor:
    """Returns the mask of a layer: connected iff ``row_degree >= column_degree``; bool, shape (out, in).

    Examples:
        >>> connectivity(hidden_degrees(4, 3), input_degrees(torch.tensor([0, 1, 2]))).int()
        tensor([[1, 0, 0],
                [1, 0, 0],
                [1, 1, 0],
                [1, 1, 0]], dtype=torch.int32)
    """
    if not _by_numpy(row_degrees, column_degrees):
        return row_degrees[:, None] >= column_degrees[None, :]
    return torch.from_numpy(np.greater_equal.outer(row_degrees.numpy(), column_degrees.numpy()))


def _by_numpy(*tensors: Tensor) -> bool:
    """Whether numpy can do it, which starts no threads: a process that is forked from one with threads cannot compute."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(tensor) is Tensor and tensor.device.type == "cpu" for tensor in tensors)


def _repeated(degrees: Tensor, counts: Sequence[int]) -> Tensor:
    """Each of the last dimension as often as it says there."""
    if _by_numpy(degrees):
        return torch.from_numpy(np.repeat(degrees.numpy(), counts, axis=-1))
    places = [place for place, count in enumerate(counts) for _ in range(count)]
    return degrees.index_select(-1, torch.tensor(places, dtype=torch.int64, device=degrees.device))


def whole_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask as bool (..., out, in), from itself or from the degrees of rows and columns, int64 (..., out + in)."""
    if mask.dtype == torch.bool:
        return mask
    rows, columns = mask.split(list(shape), dim=-1)
    whole: Tensor = rows[..., :, None] >= columns[..., None, :]
    return whole
