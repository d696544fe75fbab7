"""The leaves of a flow of flowjax: which array is what, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Leaves", "Linear"]


class Linear(NamedTuple):
    """One linear layer of all transforms: mask and weight (T, out, in), bias (T, out)."""

    mask: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any]


class Leaves(NamedTuple):
    """The arrays of a flow by what they are."""

    base: tuple[NDArray[Any], ...]  # location and raw scale (D,), or none
    linears: tuple[Linear, ...]
    permutation: NDArray[Any]  # (T, D): variable d of what comes next is variable permutation[t, d]

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of all weights."""
        return tuple(each.weight.shape for each in self.linears)

    @classmethod
    def of(cls, leaves: Iterable[Any], base: str) -> Leaves:
        """Finds them among the leaves of a flow with this base; ValueError where they do not fit."""
        try:
            arrays = [np.asarray(each) for each in leaves if hasattr(each, "__array__")]
        except TypeError:
            raise ValueError(f"leaves must be arrays one after another, got {type(leaves).__name__}") from None
        arrays = [each for each in arrays if each.ndim]
        first = next((place for place, each in enumerate(arrays) if each.dtype == bool), len(arrays))
        linears: list[Linear] = []
        place = first
        while place + 2 < len(arrays) and arrays[place].dtype == bool:
            linears.append(_linear(f"layer {len(linears)}", arrays[place : place + 3], linears))
            place += 3
        if not linears:
            shapes = ", ".join(str(each.shape) for each in arrays[:6]) or "no array"
            raise ValueError(f"leaves must hold a mask, a weight and a bias for each layer, got {shapes}")
        features = linears[-1].weight.shape[1] // 2
        _check_masks(linears, features)
        dtype = linears[0].weight.dtype
        known = tuple(_numbers("the base", each, (features,), dtype) for each in arrays[:first])
        expected = 2 if base == "normal" else 0
        if len(known) != expected:
            raise ValueError(
                f"leaves before those of the layers must be {expected} with base={base!r}, got {len(known)}"
            )
        return cls(known, tuple(linears), _permutation(arrays[place:], len(linears[0].bias), features))


def _linear(name: str, arrays: Sequence[NDArray[Any]], before: Sequence[Linear]) -> Linear:
    mask, weight, bias = arrays
    shape = weight.shape
    if before:
        shape = (before[0].weight.shape[0], shape[1] if len(shape) == 3 else 0, before[-1].weight.shape[1])
    if mask.shape != shape or len(shape) != 3 or not all(shape):
        raise ValueError(f"the mask of {name} must have shape {shape}, as the weight, got {mask.shape}")
    dtype = before[0].weight.dtype if before else None
    weight = _numbers(f"the weight of {name}", weight, shape, dtype)
    return Linear(mask, weight, _numbers(f"the bias of {name}", bias, shape[:2], weight.dtype))


def _check_masks(linears: Sequence[Linear], features: int) -> None:
    """Raises ValueError unless there are two parameters for each variable, of which none depends on it or on a later one."""
    _, outputs, _ = linears[-1].weight.shape
    width = linears[0].weight.shape[2]
    if outputs != 2 * features or width < features:
        raise ValueError(f"leaves must be those of two parameters for each variable, got {outputs} of {width} inputs")
    paths = linears[0].mask.astype(np.float64)
    for each in linears[1:]:
        paths = (each.mask.astype(np.float64) @ paths > 0).astype(np.float64)
    later = np.arange(features) >= np.repeat(np.arange(features), 2)[:, None]  # (2 D, D)
    if bool((later & (paths[:, :, :features] > 0)).any()):
        raise ValueError("masks among the leaves must let no variable depend on itself or on later ones")


def _numbers(name: str, found: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    if (
        found.shape != shape
        or found.dtype not in (np.float32, np.float64)
        or (dtype is not None and found.dtype != dtype)
    ):
        wish = "float32 or float64" if dtype is None else dtype
        raise ValueError(f"{name} must have shape {shape} and be {wish}, got {found.shape} and {found.dtype}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, found nan or inf")
    return found


def _permutation(arrays: Sequence[NDArray[Any]], transforms: int, features: int) -> NDArray[Any]:
    """Those of Permute, with their inverses, of three variables or more; of two they are turned round."""
    if features < 3 and not arrays:
        return np.tile(np.arange(features)[::-1], (transforms, 1))
    whole = [each.dtype.kind in "iu" and each.shape == (transforms, features) for each in arrays]
    if whole != [True, True] or not np.array_equal(
        np.sort(arrays[0], 1), np.tile(np.arange(features), (transforms, 1))
    ):
        shapes = ", ".join(f"{each.dtype} {each.shape}" for each in arrays) or "nothing"
        raise ValueError(
            f"leaves must end with permutations ({transforms}, {features}) and their inverses, got {shapes}"
        )
    return arrays[0]
