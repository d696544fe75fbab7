"""Uniforms as the compiled engine makes them, by a distribution of one's own that returns them; cells and bits of many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.campaigns.cells import Tested, bits, chi_square
from made_fast import MADE, noise
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.own import Own

STEPS = 1000  # variables of the model: positions of the counter
ROWS = 1000  # of a call
SIDE = 64  # cells of a pair on each side
HALF = 1 << 12  # the upper and the lower half of a uniform's 24 bits


class Uniforms(Conditional):
    """Draws are the uniforms."""

    num_params = 1

    def __init__(self, draw: Any = None) -> None:
        self.native_draw = None if draw is None else {"float32": draw, "float64": draw}

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: object = None) -> Tensor:
        return uniforms[..., 0].to(params.dtype)


def copying() -> Any:
    """A C function that copies uniforms (rows,) to x: memmove behind the signature of ``native_draw``."""
    import numba
    from numba import types

    floats = types.CPointer(types.float32)

    def copy(params: Any, uniforms: Any, x: Any, rows: int, stride: int) -> None:
        for row in range(rows):
            x[row] = uniforms[row]

    return numba.cfunc(types.void(floats, floats, floats, types.int64, types.int64))(copy)


class Collected:
    """Counts of uniforms (rows, steps), added call by call."""

    def __init__(self) -> None:
        self.total = 0
        self.halves = np.zeros((2, HALF), np.int64)
        self.pairs = {
            name: np.zeros((SIDE, SIDE), np.int64) for name in ("next step", "next row", "next seed", "low bits")
        }
        self.last: NDArray[np.int32] | None = None

    def add(self, uniforms: NDArray[np.float32]) -> None:
        """Uniforms (rows, steps) of one seed."""
        words = (uniforms * np.float32(2**24)).astype(np.int32)
        assert (words * np.float32(2.0**-24) == uniforms).all(), "uniforms must be multiples of 2**-24"
        self.total += words.size
        flat = words.ravel()
        self.halves[0] += np.bincount(flat >> 12, minlength=HALF)
        self.halves[1] += np.bincount(flat & (HALF - 1), minlength=HALF)
        high, low = words >> 18, words & (SIDE - 1)
        self._pair("next step", high[:, :-1:2], high[:, 1::2])
        self._pair("next row", high[:-1:2], high[1::2])
        self._pair("low bits", low[:, :-1:2], low[:, 1::2])
        if self.last is not None:
            self._pair("next seed", self.last, high)
        self.last = high if self.last is None else None

    def _pair(self, name: str, one: NDArray[np.int32], other: NDArray[np.int32]) -> None:
        cells = np.bincount((one * SIDE + other).ravel(), minlength=SIDE * SIDE)
        self.pairs[name] += cells.reshape(SIDE, SIDE)

    def tests(self) -> list[Tested]:
        """Each bit, each half, each kind of pair."""
        found = []
        for bit in range(24):
            counts = self.halves[0 if bit >= 12 else 1]
            ones = counts[(np.arange(HALF) >> (bit % 12)) & 1 == 1].sum()
            found.append(bits(f"bit {bit}", int(ones), self.total))
        found += [chi_square(name, self.halves[place]) for place, name in enumerate(("upper bits", "lower bits"))]
        found += [chi_square(name, pairs) for name, pairs in self.pairs.items() if pairs.sum() >= 5 * SIDE * SIDE]
        return found


def collect(total: int, seeds: int = 16) -> tuple[Collected, int]:
    """Counts of at least ``total`` uniforms, by turns from neighbouring seeds; and how many differ from the definition."""
    draw = copying()
    model = MADE(STEPS, (), output=Own(Uniforms(draw)))
    sampler = model.sampler()
    found, differ, call = Collected(), 0, 0
    while found.total < total or call < 2:
        seed, first = call % seeds, call // seeds * ROWS
        x = sampler.sample(ROWS, seed=seed, first_row=first, backend="cpp")
        found.add(x.numpy())
        if call % 50 == 0:  # the definition takes its time
            rows = torch.arange(first, first + 4)
            expected = noise.uniform(seed, rows[:, None], torch.arange(STEPS))
            differ += int((x[:4] != expected).sum())
        call += 1
    return found, differ
