"""Sampler: a frozen program with its schedule and packed weights, which evaluates each unit once for a whole sample."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from made_fast import backends
from made_fast.outputs import Output
from made_fast.program import Program
from made_fast.schedule import Schedule, build_schedule

__all__ = ["Request", "Sampler"]

# A call is cut into pieces of about this many multiply-adds, so that Ctrl-C and the progress bar wait for one piece only:
# by type of device, a tenth of a second or so on each.
_MACS_PER_PIECE = {"cpu": 4_000_000_000, "cuda": 2_000_000_000_000}


@dataclass(frozen=True)
class Request:
    """What a draw is asked for, checked.

    Attributes:
        shape: (n,), or (B, n) with a context; the request's rows are numbered through it.
        seed: of the noise.
        first_row: noise row of row 0.
        rows: (count,) int64 noise rows, or None: consecutive from ``first_row``.
        context: (B, C) or None.
    """

    shape: tuple[int, ...]
    seed: int
    first_row: int
    rows: Tensor | None
    context: Tensor | None

    @classmethod
    def checked(
        cls,
        num_samples: int,
        context: Tensor | None,
        seed: int | None,
        generator: torch.Generator | None,
        first_row: int,
        rows: Tensor | None,
        context_features: int,
    ) -> Request:
        """The request that these arguments of ``Sampler.sample`` make; the seed is drawn if it was left out.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        _check_numbers(num_samples, seed, first_row)
        _check_context(context, context_features)
        shape = (num_samples,) if context is None else (context.shape[0], num_samples)
        if rows is not None:
            _check_rows(rows, prod(shape), first_row)
        if seed is None:
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
        return cls(shape, seed, first_row, rows, None if context is None else context.detach())

    @property
    def count(self) -> int:
        """Number of rows."""
        return prod(self.shape)

    def noise_rows(self) -> Tensor:
        """(count,) int64 on the CPU: the noise row of each row."""
        return torch.arange(self.first_row, self.first_row + self.count) if self.rows is None else self.rows.cpu()

    def context_of(self, places: Tensor) -> Tensor | None:
        """The contexts (m, C) of some rows (m,) of the request."""
        return None if self.context is None else self.context[places.to(self.context.device) // self.shape[-1]]


class Sampler:
    """Draws exact samples of a frozen autoregressive network.

    The weights are copied: training the model later does not change a sampler. Samples depend on the seed and the row
    number alone: ``sample(n, seed=s)[a:b]`` equals ``sample(b - a, seed=s, first_row=a)``.

    Attributes:
        features: number of variables D.
        macs: multiply-adds for one sample.
        dtype: of the samples.

    Args:
        program: the network.
        output: what its parameters mean.
        schedule: of this program; found from its masks if left out.
        backend: ``"auto"`` or the name of a backend.
        bf16_weights: keep weights in bf16 and round hidden values to bf16 as well, sums stay fp32; needs the processor's
            instruction for it (``build_config()["bf16"]``). Samples then follow a slightly different law, whose own
            log-probability ``sample_and_log_prob`` returns; benchmarks/README.md states by how much. It has no path for
            few rows.

    Raises:
        ValueError: the program is not autoregressive, a weight is not finite, or the backend cannot serve.
    """

    def __init__(
        self,
        program: Program,
        output: Output,
        *,
        schedule: Schedule | None = None,
        backend: str = "auto",
        bf16_weights: bool = False,
    ) -> None:
        for number, op in enumerate(program.affines):
            for tensor in (*(term.weight for term in op.terms), *(() if op.bias is None else (op.bias,))):
                if not bool(torch.isfinite(tensor).all()):
                    raise ValueError(
                        f"weights must be finite to draw samples, found nan or inf in linear layer {number}"
                    )
        self.dtype = program.dtype  # of the samples
        half = program.dtype in (torch.bfloat16, torch.float16)  # computed in fp32, which holds the weights exactly
        self.program = program.to(torch.float32) if half else program
        self.bf16_weights = bf16_weights
        if bf16_weights:
            self.program = self.program.with_rounded_weights(torch.bfloat16)
        self.features = program.features  # D
        self.output = output
        self.schedule = build_schedule(program) if schedule is None else schedule
        self.backend = backend
        self._packed: dict[str, tuple[ModuleType, Any]] = {}
        self.macs = self.schedule.macs  # multiply-adds for one sample
        self._lock = threading.Lock()
        self._choose(backend)  # a backend that cannot serve is refused here, not at the first draw

    def _choose(self, requested: str) -> backends.Backend:
        requested = self.backend if requested == "auto" else requested
        program = self.program
        return backends.choose(
            requested,
            device=program.device,
            dtype=program.dtype,
            output=self.output.name,
            bf16_weights=self.bf16_weights,
        )

    @property
    def order(self) -> Tensor:
        """int64 (D,): ``order[s]`` is the variable whose noise has step ``s``."""
        return self.program.order

    @property
    def levels(self) -> Tensor:
        """int64 (D,): the sequential step at which each variable is drawn."""
        return torch.from_numpy(self.schedule.levels)

    @property
    def num_steps(self) -> int:
        """Number of sequential steps of one draw; D at most, fewer where the masks allow it."""
        return self.schedule.num_levels

    @property
    def dense_macs(self) -> int:
        """Multiply-adds for one row of one dense forward pass of the same network."""
        return self.program.dense_macs

    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> Tensor:
        """Draws samples.

        Args:
            num_samples: n, how many; for each context if there is one.
            context: (B, C), or None if the model takes none.
            seed: of the noise; drawn from ``generator`` if left out.
            generator: source of the seed; torch's default generator if left out.
            first_row: number of the first noise row, for jobs that are split by rows.
            rows: int64 (n,), the noise row of each sample, instead of consecutive ones from ``first_row``; (B * n,) with
                a context, ``rows[b * n + i]`` for sample i of context b.
            dtype: of the result; the model's own if left out.
            backend: ``"auto"`` or the name of a backend.
            progress: whether to show a progress bar.

        Returns:
            (n, D), or (B, n, D) with a context (noise rows are numbered ``first_row + b * n + i``).

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        return self._draw(num_samples, context, seed, generator, first_row, rows, dtype, backend, progress, False)[0]

    def sample_and_log_prob(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
        progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draws samples with their log-probabilities in nats: (n, D) and (n,), or (B, n, D) and (B, n).

        The arguments are those of ``sample``.
        """
        x, log_prob = self._draw(num_samples, context, seed, generator, first_row, rows, dtype, backend, progress, True)
        assert log_prob is not None
        return x, log_prob

    def _draw(
        self,
        num_samples: int,
        context: Tensor | None,
        seed: int | None,
        generator: torch.Generator | None,
        first_row: int,
        rows: Tensor | None,
        dtype: torch.dtype | None,
        backend: str,
        progress: bool,
        with_log_prob: bool,
    ) -> tuple[Tensor, Tensor | None]:
        expected = self.program.context_features
        request = Request.checked(num_samples, context, seed, generator, first_row, rows, expected)
        module, packed = self._ready(backend)
        count, device, own = request.count, self.program.device, self.program.dtype
        context = None if request.context is None else request.context.to(device, own).contiguous()
        rows = None if rows is None else rows.to(device).contiguous()
        x = torch.empty((count, self.features), dtype=dtype or self.dtype, device=device)
        log_prob = torch.empty(count, dtype=own, device=device) if with_log_prob else None
        for start, stop in self._pieces(count, progress):
            piece = x if stop - start == count else x[start:stop]
            target = piece if x.dtype == own else torch.empty(piece.shape, dtype=own, device=device)
            module.draw(
                packed,
                target,
                None if log_prob is None else log_prob[start:stop],
                seed=request.seed,
                first_row=first_row,
                row_offset=start,
                rows=None if rows is None else rows[start:stop],
                context=context,
                rows_per_context=num_samples,
            )
            if target is not piece:
                piece.copy_(target)
        if context is not None:
            x = x.reshape(*request.shape, self.features)
            log_prob = None if log_prob is None else log_prob.reshape(request.shape)
        return x, log_prob

    def _ready(self, requested: str) -> tuple[ModuleType, Any]:
        """The module of a backend and this program in its layout, made at first use."""
        found = self._packed.get(requested)
        if found is None:
            chosen = self._choose(requested)
            with self._lock:
                packed = self._packed.get(chosen.name)
                if packed is None:
                    module = backends.load(chosen)
                    options = {"bf16": True} if self.bf16_weights else {}
                    packed = (module, module.pack(self.program, self.schedule, self.output, **options))
                found = self._packed[requested] = self._packed[chosen.name] = packed
        return found

    def _pieces(self, rows: int, progress: bool) -> Iterable[tuple[int, int]]:
        macs = _MACS_PER_PIECE.get(self.program.device.type, _MACS_PER_PIECE["cpu"])
        size = max(64, macs // max(1, self.macs))
        if rows <= size and not progress:
            return [(0, rows)] if rows else []
        return self._counted_pieces(rows, size, progress)

    @staticmethod
    def _counted_pieces(rows: int, size: int, progress: bool) -> Iterator[tuple[int, int]]:
        with tqdm(total=rows, unit="row", unit_scale=True, disable=not progress) as bar:
            for start in range(0, rows, size):
                yield start, min(start + size, rows)
                bar.update(min(size, rows - start))


def _check_numbers(num_samples: int, seed: int | None, first_row: int) -> None:
    for name, value in (("num_samples", num_samples), ("first_row", first_row)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be an integer, 0 or more, got {value!r}")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"seed must be an integer or None, got {seed!r}")
    if first_row >= 2**62:
        raise ValueError(f"first_row must be below 2**62, got {first_row}")


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
