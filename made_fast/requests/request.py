"""What a draw is asked for, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from made_fast.arguments import whole_number
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.requests.checks import check_decoding, conditions_of, decoding_of
from made_fast.requests.conditions import Allowed, Conditions

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What a draw is asked for, checked.

    Attributes:
        shape: (n,), or (N, n) with contexts or conditions of N rows; the request's rows are numbered through it.
        seed: of the noise.
        first_row: noise row of row 0.
        rows: (count,) int64 noise rows, or None: consecutive from ``first_row``.
        context: (N, C) or None.
        conditions: of N rows, or of one for all; or None.
        decoding: how conditionals are changed.
        dtype: of the samples, or None.
        backend: ``"auto"`` or the name of a backend.
        progress: whether to show a progress bar.
        count: number of rows.
        features: what a backend must be able to do besides plain draws.
    """

    shape: tuple[int, ...]
    seed: int
    first_row: int = 0
    rows: Tensor | None = None
    context: Tensor | None = None
    conditions: Conditions | None = None
    decoding: Decoding = PLAIN
    dtype: torch.dtype | None = None
    backend: str = "auto"
    progress: bool = False
    count: int = field(init=False)
    features: tuple[str, ...] = field(init=False)

    @classmethod
    def checked(
        cls,
        conditionals: Sequence[Conditional],
        context_features: int,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        given: Tensor | None = None,
        observed: Tensor | None = None,
        allowed: Allowed | Sequence[Allowed] | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Request:
        """The request that the arguments of ``sample`` make; the seed is drawn if it was left out.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        if not (type(num_samples) is type(first_row) is type(seed) is int and num_samples >= 0 == first_row):
            num_samples = whole_number("num_samples", num_samples)
            first_row = whole_number("first_row", first_row, 0, 2**62 - 1)
            seed = _drawn_seed(generator) if seed is None else whole_number("seed", seed, None)
        _check_context(context, context_features)
        count = None if context is None else context.shape[0]
        conditions, decoding = None, PLAIN
        if given is not None or observed is not None or allowed is not None:
            conditions, count = conditions_of(conditionals, given, observed, allowed, count)
        if (temperature, greedy, top_k, top_p) != (1, False, 0, 1):
            decoding = decoding_of(temperature, greedy, top_k, top_p)
            constrained = conditions is not None and conditions.support is not None
            check_decoding(decoding, conditionals, constrained=constrained)
        shape = (num_samples,) if count is None else (count, num_samples)
        if rows is not None:
            _check_rows(rows, prod(shape), first_row)
        context = None if context is None else context.detach()
        return cls(shape, seed, first_row, rows, context, conditions, decoding, dtype, backend, progress)

    def __post_init__(self) -> None:
        held = () if self.conditions is None else self.conditions.features
        object.__setattr__(self, "count", prod(self.shape))
        object.__setattr__(self, "features", (*self.decoding.features, *held))

    def noise_rows(self) -> Tensor:
        """(count,) int64 on the CPU: the noise row of each row."""
        return torch.arange(self.first_row, self.first_row + self.count) if self.rows is None else self.rows.cpu()

    def context_of(self, places: Tensor) -> Tensor | None:
        """The contexts (m, C) of some rows (m,) of the request."""
        return None if self.context is None else self.context[places.to(self.context.device) // self.shape[-1]]

    def conditions_of(self, places: Tensor) -> Conditions | None:
        """The conditions of some rows (m,) of the request, one row for each."""
        return None if self.conditions is None else self.conditions.rows(places // self.shape[-1])


def _drawn_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def _check_context(context: Tensor | None, expected: int) -> None:
    shown = "None" if context is None else f"shape {tuple(context.shape)}"
    if not expected:
        if context is not None:
            raise ValueError(f"context must be None for a model without context_features, got {shown}")
        return
    if context is None or context.ndim != 2 or context.shape[1] != expected:
        raise ValueError(f"context must have shape (B, {expected}), got {shown}")
    if not bool(torch.isfinite(context).all()):
        raise ValueError("context must be finite, found nan or inf")


def _check_rows(rows: Tensor, count: int, first_row: int) -> None:
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.shape != (count,):
        found = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else repr(rows)
        raise ValueError(f"rows must be an int64 tensor of shape ({count},), one for each sample, got {found}")
    if first_row:
        raise ValueError(f"first_row must be 0 where rows are given, got {first_row}")
    if count and not 0 <= int(rows.min()) <= int(rows.max()) < 2**62:
        outside = int(rows[(rows < 0) | (rows >= 2**62)][0])
        raise ValueError(f"rows must lie in 0 .. 2**62 - 1, got {outside}")
