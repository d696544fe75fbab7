"""Sampling on a GPU: one launch that keeps its rows to the end, or a launch per outer block under a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor

from made_fast.backends.known import check_program
from made_fast.backends.triton.codes import KNOWN_CODES
from made_fast.backends.triton.columns import VECTORS, BlockColumn
from made_fast.backends.triton.drawing.asked import Asked, request_of
from made_fast.backends.triton.drawing.cuda_graphs import CapturedDraws
from made_fast.backends.triton.drawing.kernel import draw_kernel
from made_fast.backends.triton.drawing.plan import DrawPlan, build_plan
from made_fast.backends.triton.drawing.sizes import (
    ASKED,
    LAYOUT,
    SAMPLER,
    SCRATCH_BYTES,
    VARIABLES,
    Layout,
    Tile,
    choose_tile,
)
from made_fast.backends.triton.drawing.tasks import bulk_kernel
from made_fast.backends.triton.drawing.variable_list import DrawList, build_draw_list
from made_fast.backends.triton.functions import KNOWN_FUNCTIONS
from made_fast.backends.triton.launch import Config, launch, precision, recording
from made_fast.outputs.codes import Code
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule
from made_fast.requests.piece import Piece

__all__ = ["Packed", "draw", "pack"]

_ARRAYS = (
    *("blocks", "slots", "tasks", "columns", "bias", "task_chunks", "task_weights"),
    *("chunks", "weights", "events", "vectors"),
)
LAUNCHES = ("auto", "one", "many")  # of a draw, see there
_NOISE_STEPS = 64  # thresholds are made for so many steps at a time


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``: the plan, and its arrays on the device."""

    program: Program
    schedule: Schedule
    layout: Layout
    plan: DrawPlan
    device: torch.device
    arrays: dict[str, Tensor]  # by the names of the kernels' arguments
    variables: Tensor  # int32 (D,) in the order of drawing
    context_units: Tensor  # int32
    drawn: DrawList | None  # variables that are drawn between blocks; None if events draw them
    captured: CapturedDraws = field(default_factory=CapturedDraws, compare=False, repr=False)

    @property
    def columns(self) -> int:
        """Columns of the table of finished values: a chunk may begin at the last slot."""
        return _up(self.plan.num_slots + self.layout.inputs, 32)

    @property
    def least(self) -> float:
        """The lower value of the variables that events draw."""
        return -1.0 if self.program.conditionals[0].code == Code.SPIN else 0.0

    @cached_property
    def between_blocks(self) -> Packed:
        """The same program with variables drawn between blocks, where more can be asked of them; made at first use."""
        return _packed(self.program, self.schedule, self.layout, in_events=False) if self.drawn is None else self


def pack(program: Program, schedule: Schedule, *, layout: Layout = LAYOUT) -> Packed:
    """Copies the weights into blocks; see ``DrawPlan``.

    Raises:
        ValueError: the program has a function or a conditional that this engine lacks.
    """
    check_program("triton", program, KNOWN_FUNCTIONS, KNOWN_CODES)
    codes = {each.code for each in program.conditionals}
    return _packed(program, schedule, layout, in_events=schedule.in_place and codes in ({Code.BERNOULLI}, {Code.SPIN}))


def _packed(program: Program, schedule: Schedule, layout: Layout, *, in_events: bool) -> Packed:
    plan = build_plan(program, schedule, **layout._asdict(), in_events=in_events)
    device = program.device

    def moved(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device).contiguous()

    arrays, drawn = {name: moved(getattr(plan, name)) for name in _ARRAYS}, None
    # What events draw needs no list: arguments that are not read stand in.
    lists = {"draws": arrays["blocks"], "draw_numbers": arrays["bias"], "embeddings": arrays["bias"]}
    if not in_events:
        drawn = build_draw_list(program, schedule, plan.param_slots)
        lists |= {"draws": moved(drawn.draws), "draw_numbers": moved(drawn.draw_numbers)}
        if program.tables is not None:
            lists["embeddings"] = program.tables.detach().float().contiguous()
    return Packed(
        program,
        schedule,
        layout,
        plan,
        device,
        arrays | lists,
        moved(schedule.variables.astype("int32")),
        moved(schedule.context_units.astype("int32")),
        drawn,
    )


def draw(
    packed: Packed,
    out: Tensor,
    piece: Piece,
    *,
    mode: str = "auto",
    config: Config | None = None,
    programs: int = 0,
) -> None:
    """Draws rows; see ``reference.draw``.

    Args:
        packed: from ``pack``.
        out: (B, D), contiguous fp32, on the device of the program; written.
        piece: which rows, and what else is written.
        mode: ``"one"`` launch for everything, ``"many"``: for each outer block one for its tasks, on all multiprocessors, and
            one for its events, or ``"auto"``.
        config: number of rows R of a tile and how the kernel is compiled; chosen by the number of rows if left out.
        programs: how many tiles are worked on at a time, which bounds the scratch; chosen if 0.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
    """
    assert out.is_contiguous() and out.dtype == torch.float32 and mode in LAUNCHES
    if piece.log_weight is not None and piece.conditions is None:
        piece.log_weight.zero_()
    if not len(out):
        return
    asked = Asked.of(piece, out)
    if asked.features:
        packed = packed.between_blocks
    request = request_of(piece, out)
    processors = _multiprocessors(packed.device)
    tiles_of = SAMPLER if packed.drawn is None else ASKED if asked.features else VARIABLES
    tile = choose_tile(len(out), processors, precision(torch.float32), tiles_of)
    if config is not None:
        tile = tile._replace(config=config)
    config = tile.config
    run = _Run(packed, config, request, out, piece, asked)
    tiles = ceil(len(out) / config["R"])
    if mode == "auto":
        mode = "many" if _many_pays(packed, tiles, processors) else "one"
    programs = min(tiles, programs or _programs(packed, tile, processors))
    if mode == "many" and tiles > programs:
        run.in_parts(programs * config["R"])
        return
    plain = piece.rows is None and piece.context is None and not asked.features
    capturing = packed.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if mode == "one":
        flags = run.one(programs)
    elif packed.device.type == "cuda" and plain and not (capturing or recording()):
        key = (tuple(out.shape), piece.log_prob is None, config, precision(torch.float32))
        flags = packed.captured.run(key, partial(run.replayed, tiles), request, out, piece.log_prob)
    else:
        flags = run.many(tiles)
    if capturing or recording():
        return  # there is nothing to look at yet
    if bool(flags.cpu().any()):
        raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")


@dataclass(frozen=True)
class _Run:
    """One call of ``draw``."""

    packed: Packed
    config: Config
    request: Tensor
    out: Tensor
    piece: Piece
    asked: Asked

    def one(self, programs: int) -> Tensor:
        """Draws everything in one launch; returns a flag for each program."""
        scratch = self._scratch(programs)
        self._launch(programs, scratch, (0, len(self.packed.plan.blocks)), begin=True, end=True, outer=True)
        return scratch["flags"]

    def many(self, tiles: int) -> Tensor:
        """Draws with two launches for each outer block; returns a flag for each tile."""
        plan, scratch = self.packed.plan, self._scratch(tiles)
        self._launch(tiles, scratch, (0, 0), begin=True, end=False, outer=False)
        bounds = plan.outer.tolist()
        for number, (first, last) in enumerate(pairwise(bounds)):
            first_task, end_task = plan.blocks[first, [BlockColumn.FIRST_TASK, BlockColumn.END_TASK]].tolist()
            launch(
                bulk_kernel,
                (end_task - first_task, tiles),
                self.config,
                first_task=first_task,
                **{
                    name: self.packed.arrays[name]
                    for name in ("tasks", "columns", "bias", "task_chunks", "task_weights")
                },
                **{name: scratch[name] for name in ("tables", "all_sums")},
                **self._sizes(),
            )
            end = number == len(bounds) - 2
            self._launch(tiles, scratch, (first, last), begin=False, end=end, outer=False)
        return scratch["flags"]

    def in_parts(self, size: int) -> None:
        """Draws so many rows at a time, so that the scratch does not grow with their number."""
        piece = self.piece._replace(log_weight=self.asked.log_weight)
        for start in range(0, len(self.out), size):
            part = slice(start, start + size)
            draw(
                self.packed,
                self.out[part],
                piece.part(start, start + size),
                mode="many",
                config=self.config,
                programs=size // self.config["R"],
            )

    def replayed(self, tiles: int, request: Tensor, out: Tensor, log_prob: Tensor | None) -> Tensor:
        """``many`` for a request and into buffers of someone else."""
        return replace(self, request=request, out=out, piece=self.piece._replace(log_prob=log_prob)).many(tiles)

    def _sizes(self) -> dict[str, Any]:
        layout = self.packed.layout
        return {
            "SLOTS": self.packed.columns,
            "SUMS": layout.outer_blocks * layout.units,
            "U": layout.units,
            "K": layout.inputs,
            "T": layout.task_units,
            "PRECISION": precision(torch.float32),
        }

    @property
    def _steps(self) -> int:
        """Thresholds that are made for each row, if events draw."""
        return _up(self.packed.schedule.features, _NOISE_STEPS) if self.packed.drawn is None else 0

    def _scratch(self, tiles: int) -> dict[str, Tensor]:
        size, sizes = tiles * self.config["R"], self._sizes()

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self.packed.device)

        return {
            "tables": empty(size, sizes["SLOTS"]),
            "all_sums": empty(size, sizes["SUMS"]),
            "all_limits": empty(size, self._steps),
            "all_nats": empty(size, dtype=torch.float64),
            "all_weights": empty(size if self.asked.features else 0, dtype=torch.float64),
            "all_touched": empty(tiles, VECTORS.value * sizes["U"]),
            "flags": empty(tiles, dtype=torch.int32),
        }

    def _launch(
        self, programs: int, scratch: dict[str, Tensor], blocks: tuple[int, int], *, begin: bool, end: bool, outer: bool
    ) -> None:
        packed, piece, schedule, drawn = self.packed, self.piece, self.packed.schedule, self.packed.drawn
        unused = packed.arrays["bias"]
        launch(
            draw_kernel,
            (programs,),
            self.config,
            request=self.request,
            first_block=blocks[0],
            last_block=blocks[1],
            **packed.arrays,
            variables=packed.variables,
            noise_rows=self.request if piece.rows is None else piece.rows,
            context=self.out if piece.context is None else piece.context,  # never read where there is none
            context_units=packed.context_units if piece.context is not None else packed.variables,
            num_context=0 if piece.context is None else len(schedule.context_units),
            context_slot=schedule.context_slot,
            x_slot=schedule.x_slot,
            features=schedule.features,
            context_features=schedule.context_features,
            **{name: value for name, value in scratch.items() if name != "all_weights"},
            out=self.out,
            log_prob=self.out if piece.log_prob is None else piece.log_prob,
            **self.asked.arguments(unused, scratch["all_weights"]),
            **self._sizes(),
            STEPS=self._steps,
            FUNCTIONS_USED=packed.plan.functions,
            CODES=0 if drawn is None else drawn.codes,
            LEAST=packed.least,
            WIDTH=0 if drawn is None else drawn.width,
            OWN=() if drawn is None else drawn.own,
            LOG_PROB=piece.log_prob is not None,
            NAMED_ROWS=piece.rows is not None,
            BEGIN=begin,
            END=end,
            OUTER=outer,
        )


def _many_pays(packed: Packed, tiles: int, processors: int) -> bool:
    """Whether spreading the tasks is worth more launches: few tiles leave most multiprocessors idle."""
    return 4 * tiles <= processors and packed.schedule.macs >= 1_000_000


def _programs(packed: Packed, tile: Tile, processors: int) -> int:
    """How many tiles are worked on at a time: what the multiprocessors hold, if their scratch is not too much."""
    layout, features = packed.layout, packed.schedule.features
    limits = _up(features, _NOISE_STEPS) if packed.drawn is None else 0
    width = packed.columns + layout.outer_blocks * layout.units + limits
    return max(1, min(tile.programs * processors, SCRATCH_BYTES // (4 * tile.config["R"] * width)))


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
