"""The masked products in torch's own operations, their multiply-adds: what exporters, counters and compilers of torch ask."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from made_fast.backends import reference
from made_fast.masks import whole_mask

__all__ = ["decompositions", "flat", "grad_input", "grad_weight", "let_compile", "let_count", "register"]

_COUNTER = "torch.utils.flop_counter"  # which loads a compiler, so that it is not loaded here
_LOWERING = "torch._inductor.lowering"
_LIKE_MASKED_LINEAR = ("masked_linear", "masked_linear_grad_input")
_NAMES = (*_LIKE_MASKED_LINEAR, "masked_linear_grad_weight")


def flat(x: Tensor) -> Tensor:
    """(B, n) from (..., n)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str, backend: str) -> Tensor:
    let_compile()
    return reference.masked_linear(x, weight, whole_mask(mask, weight.shape), bias, activation)


def grad_input(grad: Tensor, weight: Tensor, mask: Tensor, backend: str) -> Tensor:
    """The operator ``masked_linear_grad_input``: (..., in) from grad (..., out) and weight (out, in)."""
    let_compile()
    return reference.masked_linear_grad_input(grad, weight, whole_mask(mask, weight.shape))


def grad_weight(grad: Tensor, x: Tensor, mask: Tensor, backend: str) -> Tensor:
    """The operator ``masked_linear_grad_weight``: (out, in) from grad (..., out) and x (..., in)."""
    let_compile()
    grad, x = flat(grad), flat(x)
    return reference.masked_linear_grad_weight(grad, x, whole_mask(mask, (grad.shape[-1], x.shape[-1])))


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Our operators with what each is in torch's own operations, for ``ExportedProgram.run_decompositions``.

    A program without our operators runs where this package is not installed; connections under the mask are then multiplied
    by zero as in other libraries.

    Returns:
        as ``torch.export.default_decompositions()``, to be joined with it.
    """
    of = torch.ops.made_fast
    return {
        of.masked_linear.default: _product,
        of.masked_linear_grad_input.default: grad_input,
        of.masked_linear_grad_weight.default: grad_weight,
    }


def register() -> None:
    """Tells the exporter to ONNX, which takes them by itself, and counters of floating-point operations that are there."""
    decomposition_table.update(decompositions())  # type: ignore[arg-type]
    let_count()


def let_count() -> None:
    """Tells ``FlopCounterMode``, if anybody has loaded it, what our operators cost: what dense products of the shapes do."""
    counter = sys.modules.get(_COUNTER)
    if counter is None or torch.ops.made_fast.masked_linear in counter.flop_registry:
        return
    for name in _LIKE_MASKED_LINEAR:
        counter.register_flop_formula(getattr(torch.ops.made_fast, name))(_flops)
    counter.register_flop_formula(torch.ops.made_fast.masked_linear_grad_weight)(_flops_of_grad_weight)
    for mode in _get_current_dispatch_mode_stack():  # those that count already know what was registered before
        known = getattr(getattr(mode, "counter", None), "flop_registry", None)
        if isinstance(known, dict):
            known.update(counter.flop_registry)


def let_compile() -> None:
    """Tells torch's compiler, if it is loaded, that our operators are called as they are.

    It refuses, where the variable ``CI`` is set, to call what has a definition in torch's own operations. What traces for it
    asks for shapes: of definitions where sizes are symbols, of the operators where they are numbers.
    """
    called_as_they_are = getattr(sys.modules.get(_LOWERING), "FALLBACK_ALLOW_LIST", None)
    if called_as_they_are is not None:
        called_as_they_are.update(f"made_fast::{name}" for name in _NAMES)


def _flops(x: Any, weight: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    """Of a product of rows with a matrix, by their shapes."""
    return int(2 * math.prod(x[:-1]) * math.prod(weight))


def _flops_of_grad_weight(grad: Any, x: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    """Of the product of rows with rows."""
    return int(2 * math.prod(grad) * x[-1])
