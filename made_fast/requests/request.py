"""What a draw is asked for, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from made_fast.arguments import (
    MOST_ROWS,
    MOST_SEED,
    described,
    finite,
    seed_number,
    shown,
    tensor_of,
    whole_number,
    whole_tensor,
    with_values,
)
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.requests.checks import Impossible, check_decoding, conditions_of, decoding_of
from made_fast.requests.conditions import Allowed, Conditions
from made_fast.tracing import is_recorded

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
        impossible: queries that leave nothing to draw, or None. There the conditions allow everything.
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
    impossible: Impossible | None = None
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
        if not (
            type(num_samples) is type(first_row) is type(seed) is int
            and first_row == 0 <= num_samples <= MOST_ROWS
            and 0 <= seed <= MOST_SEED
        ):
            num_samples = whole_number("num_samples", num_samples, 0, MOST_ROWS)
            first_row = whole_number("first_row", first_row, 0, MOST_ROWS - 1)
            seed = _drawn_seed(generator) if seed is None else seed_number("seed", seed)
        if is_recorded():
            raise ValueError(
                "sample must be called outside of what is traced, exported or compiled as a whole: a recording would hold "
                "memory in place of samples"
            )
        has_plain_rows = context is None and rows is None and given is None and not context_features
        has_plain_values = observed is None and allowed is None and dtype is None
        if has_plain_rows and has_plain_values and _are_plain(temperature, greedy, top_k, top_p):
            return cls._plain(num_samples, seed, first_row, backend, progress)
        context = None if context is None and not context_features else _checked_context(context, context_features)
        count = None if context is None else context.shape[0]
        conditions, impossible, decoding = None, None, PLAIN
        if given is not None or observed is not None or allowed is not None:
            conditions, impossible, count = conditions_of(conditionals, given, observed, allowed, count)
        if not _are_plain(temperature, greedy, top_k, top_p):
            decoding = decoding_of(temperature, greedy, top_k, top_p)
            constrained = conditions is not None and conditions.support is not None
            check_decoding(decoding, conditionals, constrained=constrained)
        shape = (num_samples,) if count is None else (count, num_samples)
        if rows is not None:
            rows = _checked_rows(rows, prod(shape), first_row)
        elif first_row + prod(shape) > MOST_ROWS:
            raise ValueError(_too_many(first_row + prod(shape)))
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype must be a torch.dtype, got {shown(dtype)}")
        return cls(shape, seed, first_row, rows, context, conditions, impossible, decoding, dtype, backend, progress)

    @classmethod
    def _plain(cls, num_samples: int, seed: int, first_row: int, backend: str, progress: bool) -> Request:
        """A request of consecutive rows and nothing else: made in a third of the time."""
        if first_row + num_samples > MOST_ROWS:
            raise ValueError(_too_many(first_row + num_samples))
        made = object.__new__(cls)
        made.__dict__.update(_PLAIN_FIELDS, shape=(num_samples,), count=num_samples, seed=seed, first_row=first_row)
        if backend != "auto" or progress:
            made.__dict__.update(backend=backend, progress=progress)
        return made

    def check_possible(self) -> None:
        """Raises ValueError where a query leaves nothing to draw."""
        if self.impossible is not None:
            raise ValueError(self.impossible.why)

    def weights(self, log_weight: Tensor) -> Tensor:
        """Log-weights (count,) in the shape of the request; those of impossible queries are -inf."""
        log_weight = log_weight.reshape(self.shape)
        if self.impossible is None:
            return log_weight
        nothing = self.impossible.rows.to(log_weight.device)
        return log_weight.masked_fill(nothing if len(self.shape) == 1 else nothing[:, None], -torch.inf)

    def __post_init__(self) -> None:
        held = () if self.conditions is None else self.conditions.features
        object.__setattr__(self, "count", prod(self.shape))
        object.__setattr__(self, "features", (*self.decoding.features, *held))

    def noise_rows(self) -> Tensor:
        """(count,) int64 on the CPU: the noise row of each row."""
        return torch.arange(self.first_row, self.first_row + self.count) if self.rows is None else self.rows.cpu()

    def context_of(self, places: Tensor) -> Tensor | None:
        """The contexts (m, C) of some rows (m,) of the request."""
        if self.context is None:
            return None
        return self.context.index_select(
            0, places.to(self.context.device) // self.shape[-1]
        )  # by brackets torch 2.6 has no uint16

    def conditions_of(self, places: Tensor) -> Conditions | None:
        """The conditions of some rows (m,) of the request, one row for each."""
        return None if self.conditions is None else self.conditions.rows(places // self.shape[-1])


_PLAIN_FIELDS = {**vars(Request((0,), 0))}


def _too_many(rows: int) -> str:
    return f"first_row and the number of samples must add up to 2**62 or less, got {rows}"


def _are_plain(temperature: object, greedy: object, top_k: object, top_p: object) -> bool:
    """Whether they are the values that change nothing."""
    try:
        return (temperature, greedy, top_k, top_p) == (1, False, 0, 1)
    except (TypeError, ValueError, RuntimeError):  # an array or a tensor of several, which is then refused by name
        return False


def _drawn_seed(generator: torch.Generator | None) -> int:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {shown(generator)}")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def _checked_context(value: object, expected: int) -> Tensor:
    if not expected:
        raise ValueError(f"context must be None for a model without context_features, got {_shape_of(value)}")
    context = None if value is None else tensor_of("context", value).detach()
    if context is None or context.ndim != 2 or context.shape[1] != expected:
        raise ValueError(f"context must have shape (B, {expected}), got {_shape_of(context)}")
    context = with_values("context", context)
    finite("context", context)
    return context


def _shape_of(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


def _checked_rows(value: object, count: int, first_row: int) -> Tensor:
    wish = f"whole numbers of shape ({count},), one for each sample"
    if isinstance(value, range) and len(value) != count:
        raise ValueError(f"rows must be {wish}, got {value!r}")
    rows = with_values("rows", whole_tensor("rows", value, wish))
    if rows.shape != (count,):
        raise ValueError(f"rows must be {wish}, got {described(value)}")
    if first_row:
        raise ValueError(f"first_row must be 0 where rows are given, got {first_row}")
    if count and not 0 <= int(rows.min()) <= int(rows.max()) < MOST_ROWS:
        outside = int(rows[(rows < 0) | (rows >= MOST_ROWS)][0])
        raise ValueError(f"rows must lie in 0 .. 2**62 - 1, got {outside}")
    return rows
