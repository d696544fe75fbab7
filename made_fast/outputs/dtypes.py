"""Types that hold the values of variables: a value leaves in one that does, or not at all."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional, distinct_of

__all__ = ["check_dtype", "check_written", "smallest_dtype", "write_values"]

_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_dtype(conditionals: Iterable[Conditional], dtype: torch.dtype) -> bool:
    """Checks that a dtype holds every value that variables can take; real numbers may be rounded to any floating type.

    Args:
        conditionals: one for each variable.
        dtype: of the samples.

    Returns:
        Whether ``write_values`` must look at each value: at real numbers, which may be too large, and at those of a
        distribution of one's own, whose support is not known.

    Raises:
        ValueError: it does not; the message names the types that do.
    """
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a torch.dtype, got {dtype!r}")
    conditionals = tuple(conditionals)
    distinct = distinct_of(conditionals)
    for conditional in distinct:
        if not _holds(conditional, dtype):
            variable = conditionals.index(conditional)
            fitting = [each for each in (*_WHOLE, *_FLOATS) if all(_holds(other, each) for other in distinct)]
            wish = f"one of {', '.join(map(str, fitting))}" if fitting else "another: there is none"
            taken = "any real number" if conditional.values() is None else conditional.expected
            raise ValueError(
                f"dtype must hold the values of all variables, {wish}; got {dtype}, but variable {variable} is {taken}"
            )
    return any(conditional.values() is None for conditional in distinct)


def smallest_dtype(conditionals: Iterable[Conditional], least_float: torch.dtype = torch.float32) -> torch.dtype:
    """The smallest type that holds the values of all these variables: flags for 0 and 1, uint8 before int8.

    Args:
        conditionals: one for each variable.
        least_float: of real numbers.
    """
    alike, floats = distinct_of(conditionals), (least_float, torch.float64)
    known = all(each.values() is not None for each in alike)
    candidates = (*_WHOLE, *floats) if known else floats
    return next((dtype for dtype in candidates if all(_holds(each, dtype) for each in alike)), torch.float64)


def write_values(out: Tensor, values: Tensor, look: bool) -> None:
    """Copies values (..., D) into a tensor of another dtype, one that passed ``check_dtype``.

    Args:
        out: of the shape of values.
        values: of any floating dtype.
        look: whether to look at each value; see ``check_dtype``.

    Raises:
        ValueError: a value would become another, beyond the rounding of a float; the message names it.
    """
    out.copy_(values)
    check_written(out, values, look)


def check_written(out: Tensor, values: Tensor, look: bool) -> None:
    """The check of ``write_values`` alone, of values that are already in the other dtype."""
    if not look or (out.is_floating_point() and torch.finfo(out.dtype).max >= torch.finfo(values.dtype).max):
        return
    lost = out.isinf() & values.isfinite() if out.is_floating_point() else out.to(values.dtype) != values
    if bool(lost.any()):
        raise ValueError(f"dtype must hold the values that were drawn, got {out.dtype} for {values[lost][0].item()}")


@functools.lru_cache(maxsize=4096)
def _holds(conditional: Conditional, dtype: torch.dtype) -> bool:
    """Whether a dtype holds all values of one variable."""
    if dtype.is_complex or dtype not in (*_WHOLE, *_FLOATS):
        return False
    values = conditional.values()
    if values is None:
        return dtype.is_floating_point or conditional.code == Code.OWN
    return torch.equal(values.to(dtype).double(), values)
