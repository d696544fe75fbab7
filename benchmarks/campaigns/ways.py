"""Every way to draw on this machine: backends through ``sample``, and each path of each instruction set of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.campaigns.trials import Trial
from made_fast import backends
from made_fast.programs.schedule import build_schedule
from made_fast.requests.piece import Piece
from made_fast.requests.request import Request

PATHS = {"chosen": 0, "rows": 1, "tiles": 5}


@dataclass(frozen=True)
class Way:
    """A backend by its name, or an instruction set and a path of the compiled one."""

    backend: str
    isa: str | None = None
    path: str = "chosen"

    @property
    def name(self) -> str:
        return self.backend if self.isa is None else f"{self.backend} {self.isa}, {self.path}"

    @property
    def compiled(self) -> bool:
        """Whether rows are the same bit for bit, however they are cut into calls."""
        return self.backend != "reference"


@dataclass(frozen=True)
class Drawn:
    """What came of a trial: x (count, D), log-probabilities and log-weights (count,) or None; whether its pieces agree."""

    x: Tensor
    log_prob: Tensor | None
    log_weight: Tensor | None
    same_in_pieces: bool = True


def all_ways(only: list[str] | None = None) -> list[Way]:
    """The ways of this machine, those of ``only`` if it is given."""
    found = []
    for row in backends.BACKENDS:
        if row.missing is not None or (row.devices and "cpu" not in row.devices) or row.name == "triton":
            continue
        if only and row.name not in only:
            continue
        found.append(Way(row.name))
        if row.name == "cpp":
            names = backends.load(row).build_config()["instruction_sets"]
            found += [Way(row.name, isa, path) for isa in names for path in PATHS]
    return found


def draw(way: Way, trial: Trial) -> Drawn | None:
    """Draws a trial; None where a way draws single masks and the trial wants the whole ensemble, or lacks what it asks."""
    model = trial.model
    row = next(each for each in backends.BACKENDS if each.name == way.backend)
    asked = Request.checked(model.conditionals, model.context_features, trial.count, trial.context, **trial.options)
    if row.features is not None and not {*asked.features} <= {*row.features}:
        return None
    if way.isa is None:
        found = model.sample_and_log_prob(
            trial.count, trial.context, **trial.masks, **trial.options, backend=way.backend
        )
        x, log_prob, log_weight = (*found, None)[:3]
        return Drawn(
            x.reshape(-1, model.features), log_prob.flatten(), None if log_weight is None else log_weight.flatten()
        )
    if model.ensemble is not None and trial.mask is None:
        return None
    return _by_engine(way, trial)


def _by_engine(way: Way, trial: Trial) -> Drawn:
    """One call of the engine into poisoned memory, and again in two pieces."""
    module: Any = backends.load(next(row for row in backends.BACKENDS if row.name == "cpp"))
    model = trial.model
    request = Request.checked(model.conditionals, model.context_features, trial.count, trial.context, **trial.options)
    program = model.program(mask=trial.mask)
    schedule = build_schedule(program)
    packed = module.pack(program, schedule)
    found = []
    cut = request.count * 2 // 3
    for bounds in ([(0, request.count)], [(0, cut), (cut, request.count)]):
        x, piece = piece_of(request, program.dtype, schedule.variables.tolist())
        for start, stop in bounds:
            part = piece.part(start, stop)
            module.draw(packed, x[start:stop], part, isa=way.isa, rows_at_once=PATHS[way.path])
        found.append((x, piece.log_prob, piece.log_weight))
    same = all(_same_bits(one, other) for one, other in zip(*found, strict=True))
    return Drawn(*found[0], same_in_pieces=same)


def piece_of(request: Request, dtype: torch.dtype, sequence: Sequence[int]) -> tuple[Tensor, Piece]:
    """Poisoned memory for the rows of a request, and the whole of it as a piece; drawn in this sequence (D,)."""

    def poisoned(*shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    cpu = torch.device("cpu")
    conditions = None if request.conditions is None else request.conditions.drawn_in(sequence).moved(cpu, dtype)
    piece = Piece(
        seed=request.seed,
        first_row=request.first_row,
        rows=request.rows,
        context=None if request.context is None else request.context.to(dtype).contiguous(),
        conditions=conditions,
        rows_per_condition=max(1, request.shape[-1]),
        decoding=request.decoding,
        log_prob=poisoned(request.count),
        log_weight=None if conditions is None else poisoned(request.count),
    )
    return poisoned(request.count, len(sequence)), piece


def _same_bits(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    whole = torch.int64 if one.dtype == torch.float64 else torch.int32
    return torch.equal(one.view(whole), other.view(whole))
