"""The masked matmuls that the static checks compile: every configuration, and every kind of mask with the largest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from made_fast.backends.triton import masked_linear, masked_linear_grad_input, masked_linear_grad_weight
from made_fast.backends.triton.configs import MATMUL, OUTER
from made_fast.mask_plan import MaskPlan, plan_from_degrees, plan_from_mask

__all__ = ["calls", "fp32_products"]

SIZE = 512
KINDS = {"ieee": (torch.float32, "highest"), "tf32": (torch.float32, "high"), "half": (torch.bfloat16, "highest")}
SPLIT, WHOLE = 2048, 256  # batches that are split for the gradient of a weight, and that are not


@contextmanager
def fp32_products(precision: str) -> Iterator[None]:
    """Within the block ``torch.set_float32_matmul_precision`` is this."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
    for kind, (dtype, precision) in KINDS.items():
        with fp32_products(precision):
            for config in MATMUL[kind]:
                yield _forward(plans["in order"], dtype, "gelu", config=config)
                yield _grad_input(plans["in order"], dtype, config=config)
            for config in OUTER[kind]:
                for batch in (SPLIT, WHOLE):
                    yield _grad_weight(plans["in order"], dtype, batch, config=config)
            for name in ("permuted", "not nested"):
                yield _forward(plans[name], dtype, "identity", config=MATMUL[kind][0])
                yield _grad_weight(plans[name], dtype, SPLIT, config=OUTER[kind][0])
            yield _grad_input(plans["permuted"], dtype, config=MATMUL[kind][0])
    yield _forward(plans["in order"], torch.float32, "relu", config=MATMUL["ieee"][0])
    yield _forward(plans["in order"], torch.float16, "gelu", config=MATMUL["half"][0])
    ragged = plan_from_degrees(np.arange(300), np.arange(98))
    yield _forward(ragged, torch.float32, "tanh", config=MATMUL["ieee"][0])


def _forward(plan: MaskPlan, dtype: torch.dtype, activation: str, **more: Any) -> Any:
    weight = torch.zeros(plan.shape, dtype=dtype)
    x = torch.zeros(WHOLE, plan.shape[1], dtype=dtype)
    return partial(masked_linear, x, weight, plan, weight[:, 0].contiguous(), activation, **more)


def _grad_input(plan: MaskPlan, dtype: torch.dtype, **more: Any) -> Any:
    grad = torch.zeros(WHOLE, plan.shape[0], dtype=dtype)
    return partial(masked_linear_grad_input, grad, torch.zeros(plan.shape, dtype=dtype), plan, **more)


def _grad_weight(plan: MaskPlan, dtype: torch.dtype, batch: int, **more: Any) -> Any:
    grad, x = (torch.zeros(batch, size, dtype=dtype) for size in plan.shape)
    return partial(masked_linear_grad_weight, grad, x, plan, **more)
