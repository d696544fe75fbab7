"""Sampler: a frozen program with its schedule and packed weights, which evaluates each unit once for a whole sample."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from made_fast import backends
from made_fast.arguments import is_finite
from made_fast.backends import Needs
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional, distinct_of
from made_fast.outputs.dtypes import check_dtype, write_values
from made_fast.outputs.output import Output
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule, build_schedule
from made_fast.requests.piece import Piece
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.room import empty_rows

__all__ = ["Sampler", "needs_of"]

# A call is cut into pieces of about this many multiply-adds, so that Ctrl-C and the progress bar wait for one piece only:
# by type of device, some tenths of a second on each for the fastest backend; others say how many times slower they are.
_MACS_PER_PIECE = {"cpu": 4_000_000_000, "cuda": 2_000_000_000_000}
_MACS_PER_VARIABLE, _MACS_PER_PARAM = 100, 75  # what a draw takes besides, as measured


def needs_of(
    conditionals: Collection[Conditional],
    *,
    device: torch.device,
    dtype: torch.dtype,
    functions: Collection[str] = (),
    features: Collection[str] = (),
    bf16: bool = False,
) -> Needs:
    """What a backend must have to draw these conditionals and do these things meanwhile."""
    distinct = distinct_of(conditionals)
    own_conditionals = [each for each in distinct if each.code == Code.OWN]
    return Needs(
        device,
        dtype,
        outputs={each.name for each in distinct},
        own_draws=[
            name for name in backends.OWN_DRAWS if all(getattr(each, name) is not None for each in own_conditionals)
        ],
        functions=functions,
        features={*features, "conditions of own distributions"} if features and own_conditionals else features,
        bf16=bf16,
    )


class Sampler(Draws):
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
            log-probability ``sample_and_log_prob`` returns; benchmarks/results/sampling.md states by how much. It has no path
            for few rows.

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
        if program.device.type == "meta":
            raise ValueError("weights must be on a device with memory to draw samples, found meta")
        for number, op in enumerate(program.affines):
            if not all(is_finite(term.numbers) or is_finite(term.weight) for term in op.terms) or not (
                op.bias is None or is_finite(op.bias)
            ):
                raise ValueError(f"weights must be finite to draw samples, found nan or inf in linear layer {number}")
        self.dtype = program.dtype  # of the samples
        half = program.dtype in (torch.bfloat16, torch.float16)  # computed in fp32, which holds the weights exactly
        self._kinds, self._are_plain = _kinds(program.tensors), False  # whether other weights can be packed as they are
        program = program.to(torch.float32) if half else program
        self.bf16_weights = bf16_weights
        if bf16_weights:
            program = program.with_rounded_weights(torch.bfloat16)
        self._program: Program | None = program
        self._outline, self._device = program, program.device  # the program, or all of it but its weights
        self.features, self.context_features = program.features, program.context_features  # D, C
        self.conditionals = program.conditionals
        self._own_draws = any(each.code == Code.OWN for each in distinct_of(program.conditionals))
        self.output = output
        self.schedule = build_schedule(program) if schedule is None else schedule
        self.backend = backend
        self._packed: dict[Any, tuple[ModuleType, Any]] = {}  # by backend, and by what was asked for
        self._looks: dict[torch.dtype, bool] = {}  # of types that hold the values: whether each must be looked at
        self.macs = self.schedule.macs  # multiply-adds for one sample
        num_params = sum(program.params_per_variable)
        self._work = max(1, self.macs) + _MACS_PER_VARIABLE * self.features + _MACS_PER_PARAM * num_params
        self._lock = threading.Lock()
        self._choose(backend)  # a backend that cannot serve is refused here, not at the first draw

    @property
    def program(self) -> Program:
        """The network; of a sampler that got other weights, those of units that reach no parameter are zeros."""
        if self._program is None:
            module, packed = next(each for each in self._packed.values() if hasattr(each[0], "unpack"))
            self._program = self._outline = self._outline.with_weights(module.unpack(packed))
        return self._program

    def with_weights(self, tensors: Sequence[Tensor | None], *, alike: bool = False) -> Sampler | None:
        """Returns the sampler of the same program with other weights, packed by what packed this one; nothing else is made.

        Args:
            tensors: as of ``Program.tensors``, of the program that this sampler was made of. They are copied, and what lies
                under masks is not drawn from.
            alike: whether their kinds are known to be those of the tensors that this sampler got its weights from.

        Returns:
            None where the sampler must be made of a program: tensors are of other kinds, a number is not finite, or this
            sampler was not drawn from by a backend that can pack other weights.
        """
        if self.bf16_weights or not (alike or _kinds(tensors) == self._kinds):
            return None
        dtype, plain = self._outline.dtype, tensors
        if not (alike and self._are_plain):
            plain = [each if each is None else each.detach().to(dtype).contiguous() for each in tensors]
        are_plain = plain is tensors or all(map(_are_one, plain, tensors))
        packed: dict[Any, tuple[ModuleType, Any]] = {}
        again: dict[int, Any] = {}  # by what it was packed as
        for key, (module, last) in list(self._packed.items()):
            if id(last) not in again and hasattr(module, "repack"):
                again[id(last)] = module.repack(last, plain)
            if again.get(id(last)) is not None:
                packed[key] = module, again[id(last)]
        if not packed:
            return None
        renewed = object.__new__(type(self))
        renewed.__dict__.update(self.__dict__, _packed=packed, _program=None, _are_plain=are_plain)
        renewed._lock = threading.Lock()
        if self._program is not None:
            renewed._outline = self._outline.to(dtype, "meta")
        return renewed

    def __getstate__(self) -> dict[str, Any]:
        """Leaves what backends made of the program out of copies and pickles; it is made again when needed."""
        _ = self.program
        return {name: value for name, value in self.__dict__.items() if name not in ("_packed", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._packed, self._lock = {}, threading.Lock()

    def _choose(self, requested: str, features: Collection[str] = ()) -> backends.Backend:
        program = self._outline
        needs = needs_of(
            self.conditionals,
            device=self._device,
            dtype=program.dtype,
            functions=program.functions,
            features=features,
            bf16=self.bf16_weights,
        )
        return backends.choose(self.backend if requested == "auto" else requested, needs)

    @property
    def order(self) -> Tensor:
        """int64 (D,): ``order[s]`` is the variable whose noise has step ``s``."""
        return self._outline.order

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
        return self._outline.dense_macs

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        module, packed = self._ready(request.backend, frozenset(request.features))
        count, device, dtype = request.count, self._device, self._outline.dtype
        result = request.dtype or self.dtype
        if result not in self._looks:
            self._looks[result] = check_dtype(self.conditionals, result)
        x = empty_rows(count, self.features, result, device)
        log_prob = torch.empty(count, dtype=dtype, device=device) if with_log_prob else None
        conditions = request.conditions
        if conditions is not None:
            conditions = conditions.drawn_in(self.schedule.variables).moved(device, dtype)
        log_weight = None if conditions is None else torch.empty(count, dtype=dtype, device=device)
        # Compiled backends know the draw of an own distribution, not its density.
        density = with_log_prob and not self._own_draws
        whole = Piece(
            seed=request.seed,
            first_row=request.first_row,
            rows=None if request.rows is None else request.rows.to(device).contiguous(),
            context=None if request.context is None else request.context.to(device, dtype).contiguous(),
            conditions=conditions,
            rows_per_condition=max(1, request.shape[-1]),
            decoding=request.decoding,
            log_prob=log_prob if density else None,
            log_weight=log_weight,
        )
        for start, stop in self._bounds(count, request.progress, getattr(module, "TIMES_SLOWER", 1)):
            alone = stop - start == count
            rows, piece = (x, whole) if alone else (x[start:stop], whole.part(start, stop))
            target = rows if x.dtype == dtype else torch.empty(rows.shape, dtype=dtype, device=device)
            module.draw(packed, target, piece)
            if log_prob is not None and not density:
                log_prob[start:stop] = self._log_prob(target, whole, start, stop)
            if target is not rows:
                write_values(rows, target, self._looks[result])
        return x, log_prob, log_weight

    def _log_prob(self, x: Tensor, whole: Piece, start: int, stop: int) -> Tensor:
        """The density (B,) of the rows [start, stop) of a request, by the definition."""
        context = whole.context
        if context is not None:
            context = context[torch.arange(start, stop, device=x.device) // whole.rows_per_condition]
        return self.output.log_prob(self.program.evaluate(x, context), x).sum(-1)

    def _ready(self, requested: str, features: frozenset[str] = frozenset()) -> tuple[ModuleType, Any]:
        """The module of a backend and this program as it packs it, made at first use."""
        ready = self._packed.get((requested, features))
        if ready is None:
            chosen = self._choose(requested, features)
            with self._lock:
                packed = self._packed.get(chosen.name)
                if packed is None:
                    module = backends.load(chosen)
                    options = {"bf16": True} if self.bf16_weights else {}
                    packed = (module, module.pack(self.program, self.schedule, **options))
                ready = self._packed[requested, features] = self._packed[chosen.name] = packed
        return ready

    def _bounds(self, rows: int, progress: bool, times_slower: int) -> Iterable[tuple[int, int]]:
        macs = _MACS_PER_PIECE.get(self._device.type, _MACS_PER_PIECE["cpu"]) // times_slower
        size = max(64, macs // self._work)
        if rows <= size and not progress:
            return [(0, rows)] if rows else []
        return self._counted_bounds(rows, size, progress)

    @staticmethod
    def _counted_bounds(rows: int, size: int, progress: bool) -> Iterator[tuple[int, int]]:
        with tqdm(total=rows, unit="row", unit_scale=True, disable=not progress) as bar:
            for start in range(0, rows, size):
                yield start, min(start + size, rows)
                bar.update(min(size, rows - start))


def _kinds(tensors: Sequence[Tensor | None]) -> list[Any]:
    """All of each tensor but its contents and its place."""
    return [None if each is None else (each.shape, each.dtype, each.device) for each in tensors]


def _are_one(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are of the same memory, the second as the first has it."""
    return one is other or (one is not None and other is not None and one.data_ptr() == other.data_ptr())
