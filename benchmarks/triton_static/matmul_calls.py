"""The masked matmuls that the static checks compile: every configuration, and every kind of mask with the largest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.precision import PRECISIONS, precision
from made_fast.backends.triton import masked_linear, masked_linear_grad_input, masked_linear_grad_weight
from made_fast.backends.triton.masked.sizes import matmul_candidates, outer_candidates
from made_fast.masks import MaskPlan, plan_from_degrees, plan_from_mask

SIZE = 512
SPLIT, WHOLE = 2048, 256  # batches that are split for the gradient of a weight, and that are not
MANY = 32768  # enough for the largest tiles


def _plans() -> dict[str, MaskPlan]:
    degrees, chance = np.arange(SIZE), np.random.default_rng(0)
    return {
        "in order": plan_from_degrees(degrees, degrees),
        "permuted": plan_from_degrees(chance.permutation(SIZE), chance.permutation(SIZE)),
        "not nested": plan_from_mask(chance.random((SIZE, SIZE)) < 0.3),
    }


def calls() -> Iterator[Any]:
    """Functions without arguments, each a call of the backend."""
    plans = _plans()
    for products, (dtype, _) in PRECISIONS.items():
        with precision(products):
            for name, plan in plans.items():
                gathered = name != "in order"
                tiles = matmul_candidates(dtype, gathered=gathered)
                if name == "not nested":
                    tiles = tiles[:1]
                for number, config in enumerate(tiles):
                    yield _forward(plan, dtype, "identity" if gathered else "gelu", config=config)
                    if name == "in order" or (name == "permuted" and number == 0):
                        yield _grad_input(plan, dtype, config=config)
                for number, config in enumerate(outer_candidates(dtype, gathered=gathered)):
                    if name != "not nested" or number == 0:
                        yield _grad_weight(plan, dtype, SPLIT, config=config)
                yield _grad_weight(plan, dtype, WHOLE, config=outer_candidates(dtype, gathered=gathered)[0])
    yield from _ragged_calls()
    in_order, ieee, half = plans["in order"], torch.float32, torch.float16
    yield _forward(in_order, ieee, "relu", config=matmul_candidates(ieee, gathered=False)[0])
    yield _forward(in_order, half, "gelu", config=matmul_candidates(half, gathered=False)[0])


def _ragged_calls() -> Iterator[Any]:
    """Rows that do not begin at multiples of 16 bytes, in the configurations that the backend takes for large batches."""
    plan = plan_from_degrees(np.arange(300), np.arange(98))
    for products, (dtype, _) in PRECISIONS.items():
        with precision(products):
            yield _forward(plan, dtype, "tanh", batch=MANY)
            yield _grad_input(plan, dtype, batch=MANY)
            yield _grad_weight(plan, dtype, MANY)


def _forward(plan: MaskPlan, dtype: torch.dtype, activation: str, batch: int = WHOLE, **more: Any) -> Any:
    weight = torch.zeros(plan.shape, dtype=dtype)
    x = torch.zeros(batch, plan.shape[1], dtype=dtype)
    return partial(masked_linear, x, weight, plan, weight[:, 0].contiguous(), activation, **more)


def _grad_input(plan: MaskPlan, dtype: torch.dtype, batch: int = WHOLE, **more: Any) -> Any:
    grad = torch.zeros(batch, plan.shape[0], dtype=dtype)
    return partial(masked_linear_grad_input, grad, torch.zeros(plan.shape, dtype=dtype), plan, **more)


def _grad_weight(plan: MaskPlan, dtype: torch.dtype, batch: int, **more: Any) -> Any:
    grad, x = (torch.zeros(batch, size, dtype=dtype) for size in plan.shape)
    return partial(masked_linear_grad_weight, grad, x, plan, **more)
