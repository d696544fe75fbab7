"""``find_plan``: plans of masks are kept and found by the content of a mask, on a GPU by its identity first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from made_fast.masks.plan import MaskPlan, plan_from_degrees, plan_from_mask

__all__ = ["digest_with", "find_plan", "mask_digest", "mask_key"]

_PLANS_KEPT = 512  # a plan of a nested mask is a few integers for each row and column, some 80 kB at 1024 x 784


_plans: OrderedDict[tuple[object, ...], MaskPlan] = OrderedDict()


# (address, bytes) -> a number that tells contents apart; the compiled module has one.
_native_digest: Callable[[int, int], int] | None = None


def digest_with(function: Callable[[int, int], int]) -> None:
    """Sets the function that tells masks apart by their content: of the address and the number of bytes."""
    global _native_digest  # noqa: PLW0603 - set once, by the backend that has it
    _native_digest = function


def mask_digest(tensor: Tensor) -> object:
    """A number that tells the content of a contiguous mask from others."""
    if _native_digest is not None:
        return _native_digest(tensor.data_ptr(), tensor.nbytes)
    return hashlib.sha1(tensor.numpy().tobytes(), usedforsecurity=False).digest()


def mask_key(mask: Tensor) -> object:
    """What tells a mask on the CPU, bool or degrees, from every other by its content; cheap."""
    if not mask.is_contiguous():
        mask = mask.contiguous()
    return mask.shape, mask.dtype, mask_digest(mask)


def find_plan(mask: Tensor, shape: tuple[int, int]) -> MaskPlan:
    """Returns the plan of a mask, made at its first use.

    Plans are found by the content of the mask, not by its identity: a mask that was changed in place, by whatever means, is
    another mask. On a GPU looking at the content would make the processor wait for it, so there the tensor and its version
    counter are looked at first: a change that goes round the counter (through ``mask.data``) is not seen.

    Args:
        mask: bool (out, in), or int64 (out + in,) degrees.
        shape: (out, in).
    """
    return _find_by_content(mask, shape) if mask.device.type == "cpu" else _find_by_identity(mask, shape)


def _find_by_content(mask: Tensor, shape: tuple[int, int]) -> MaskPlan:
    mask = mask.detach().contiguous()
    key = (shape, mask_key(mask))
    plan = _plans.get(key)
    if plan is None:
        if mask.dtype == torch.bool:
            plan = plan_from_mask(mask.numpy())
        else:
            degrees = mask.numpy()
            plan = plan_from_degrees(degrees[: shape[0]], degrees[shape[0] :])
        _plans[key] = plan
        while len(_plans) > _PLANS_KEPT:
            _plans.popitem(last=False)
    return plan


class _State(NamedTuple):
    """What a tensor was when its content was read: all that changes when its content does, or may."""

    shape: tuple[int, int]
    version: int
    data_ptr: int
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


# An entry goes when its tensor does, so a tensor that gets the freed one's id finds nothing.
_by_identity: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _find_by_identity(mask: Tensor, shape: tuple[int, int]) -> MaskPlan:
    """The plan of a mask on a GPU: the one found before, if the tensor was not written to since."""
    if mask.is_inference():  # has no version counter
        return _find_by_content(mask.cpu(), shape)
    state = _State(shape, mask._version, mask.data_ptr(), mask.shape, mask.stride(), mask.dtype)
    known: tuple[_State, MaskPlan] | None = _by_identity.get(mask)
    if known is not None and known[0] == state:
        return known[1]
    plan = _find_by_content(mask.detach().cpu(), shape)
    _by_identity[mask] = (state, plan)
    return plan
