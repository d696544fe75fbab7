"""Sampling on a GPU: one launch that keeps its rows to the end, or a launch per outer block under a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor

from made_fast.backends.triton import launch as launches
from made_fast.backends.triton.draw_kernels import bulk_kernel, draw_kernel
from made_fast.backends.triton.draw_plan import DrawPlan, build_plan
from made_fast.backends.triton.graph import CapturedDraws
from made_fast.backends.triton.launch import Config, launch
from made_fast.backends.triton.sampler_configs import LAYOUT, SCRATCH_BYTES, Layout, Tile, choose_tile
from made_fast.conditionals import Decoding
from made_fast.conditioning import Conditions
from made_fast.outputs import Output
from made_fast.program import Program
from made_fast.schedule import Schedule

__all__ = ["Packed", "draw", "pack"]

_ARRAYS = (
    *("blocks", "slots", "tasks", "columns", "bias", "task_chunks", "task_weights"),
    *("chunks", "weights", "events", "vectors"),
)
MODES = ("auto", "one", "many")
_NOISE_STEPS = 64  # thresholds are made for so many steps at a time


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``: the plan, and its arrays on the device."""

    schedule: Schedule
    layout: Layout
    plan: DrawPlan
    device: torch.device
    arrays: dict[str, Tensor]  # by the names of the kernels' arguments
    variables: Tensor  # int32 (D,) in the order of drawing
    context_units: Tensor  # int32
    captured: CapturedDraws = field(default_factory=CapturedDraws, compare=False, repr=False)

    @property
    def columns(self) -> int:
        """Columns of the table of finished values: a chunk may begin at the last slot."""
        return _up(self.schedule.num_slots + self.layout.inputs, 32)


def pack(program: Program, schedule: Schedule, output: Output, *, layout: Layout = LAYOUT) -> Packed:
    """Copies the weights into blocks; see ``draw_plan.DrawPlan``. ``output`` is the Bernoulli distribution."""
    plan = build_plan(program, schedule, **layout._asdict())
    device = program.device

    def moved(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device).contiguous()

    return Packed(
        schedule,
        layout,
        plan,
        device,
        {name: moved(getattr(plan, name)) for name in _ARRAYS},
        moved(schedule.variables.astype("int32")),
        moved(schedule.context_units.astype("int32")),
    )


def draw(
    packed: Packed,
    out: Tensor,
    log_prob: Tensor | None,
    *,
    seed: int,
    first_row: int,
    row_offset: int = 0,
    rows: Tensor | None = None,
    context: Tensor | None = None,
    rows_per_context: int = 1,
    conditions: Conditions | None = None,
    decoding: Decoding | None = None,
    log_weight: Tensor | None = None,
    mode: str = "auto",
    config: Config | None = None,
    programs: int = 0,
) -> None:
    """Draws rows; see ``reference.draw``.

    Args:
        packed: from ``pack``.
        out: (B, D), contiguous fp32, on the device of the program; written.
        log_prob: (B,), likewise, or None; written.
        seed, first_row, row_offset, rows, rows_per_context: see ``reference.draw``; rows on the device.
        context: see ``reference.draw``; contiguous fp32, on the device.
        mode: ``"one"`` launch for everything, ``"many"``: for each outer block one for its tasks, on all multiprocessors, and
            one for its events, or ``"auto"``.
        config: number of rows R of a tile and how the kernel is compiled; chosen by the number of rows if left out.
        programs: how many tiles are worked on at a time, which bounds the scratch; chosen if 0.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
    """
    assert out.is_contiguous() and out.dtype == torch.float32 and mode in MODES
    if not len(out):
        return
    numbers = [_signed(seed), first_row + row_offset, row_offset, rows_per_context, len(out)]
    request = torch.tensor(numbers, dtype=torch.int64, device=packed.device)
    processors = _multiprocessors(packed.device)
    tile = choose_tile(len(out), processors, launches.precision(torch.float32))
    if config is not None:
        tile = tile._replace(config=config)
    config = tile.config
    run = _Run(packed, config, request, out, log_prob, rows, context)
    tiles = ceil(len(out) / config["R"])
    if mode == "auto":
        mode = "many" if _many_pays(packed, tiles, processors) else "one"
    programs = min(tiles, programs or _programs(packed, tile, processors))
    if mode == "many" and tiles > programs:
        run.in_parts(programs * config["R"], seed, first_row, row_offset, rows_per_context)
        return
    capturing = packed.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if mode == "one":
        flags = run.one(programs)
    elif packed.device.type == "cuda" and rows is None and context is None and not (capturing or launches.recording()):
        key = (tuple(out.shape), log_prob is None, config, launches.precision(torch.float32))
        flags = packed.captured.run(key, partial(run.replayed, tiles), request, out, log_prob)
    else:
        flags = run.many(tiles)
    if capturing or launches.recording():
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
    log_prob: Tensor | None
    rows: Tensor | None
    context: Tensor | None

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
            first_task, end_task = plan.blocks[first, :2].tolist()
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

    def in_parts(self, size: int, seed: int, first_row: int, row_offset: int, rows_per_context: int) -> None:
        """Draws so many rows at a time, so that the scratch does not grow with their number."""
        for start in range(0, len(self.out), size):
            part = slice(start, start + size)
            draw(
                self.packed,
                self.out[part],
                None if self.log_prob is None else self.log_prob[part],
                seed=seed,
                first_row=first_row,
                row_offset=row_offset + start,
                rows=None if self.rows is None else self.rows[part],
                context=self.context,
                rows_per_context=rows_per_context,
                mode="many",
                config=self.config,
                programs=size // self.config["R"],
            )

    def replayed(self, tiles: int, request: Tensor, out: Tensor, log_prob: Tensor | None) -> Tensor:
        """``many`` for a request and into buffers of someone else."""
        return replace(self, request=request, out=out, log_prob=log_prob).many(tiles)

    def _sizes(self) -> dict[str, Any]:
        layout = self.packed.layout
        return {
            "SLOTS": self.packed.columns,
            "SUMS": layout.outer_blocks * layout.units,
            "U": layout.units,
            "K": layout.inputs,
            "T": layout.task_units,
            "PRECISION": launches.precision(torch.float32),
        }

    def _scratch(self, tiles: int) -> dict[str, Tensor]:
        size, sizes = tiles * self.config["R"], self._sizes()

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self.packed.device)

        return {
            "tables": empty(size, sizes["SLOTS"]),
            "all_sums": empty(size, sizes["SUMS"]),
            "all_limits": empty(size, _up(self.packed.schedule.features, _NOISE_STEPS)),
            "all_nats": empty(size, dtype=torch.float64),
            "all_touched": empty(tiles, 2 * sizes["U"]),
            "flags": empty(tiles, dtype=torch.int32),
        }

    def _launch(
        self, programs: int, scratch: dict[str, Tensor], blocks: tuple[int, int], *, begin: bool, end: bool, outer: bool
    ) -> None:
        packed, schedule = self.packed, self.packed.schedule
        launch(
            draw_kernel,
            (programs,),
            self.config,
            request=self.request,
            first_block=blocks[0],
            last_block=blocks[1],
            **packed.arrays,
            variables=packed.variables,
            noise_rows=self.request if self.rows is None else self.rows,
            context=self.out if self.context is None else self.context,  # never read where there is none
            context_units=packed.context_units if self.context is not None else packed.variables,
            num_context=0 if self.context is None else len(schedule.context_units),
            context_slot=schedule.context_slot,
            x_slot=schedule.x_slot,
            features=schedule.features,
            context_features=schedule.context_features,
            **scratch,
            out=self.out,
            log_prob=self.out if self.log_prob is None else self.log_prob,
            **self._sizes(),
            STEPS=_up(schedule.features, _NOISE_STEPS),
            FUNCTIONS_USED=packed.plan.functions,
            LOG_PROB=self.log_prob is not None,
            NAMED_ROWS=self.rows is not None,
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
    width = packed.columns + layout.outer_blocks * layout.units + _up(features, _NOISE_STEPS)
    return max(1, min(tile.programs * processors, SCRATCH_BYTES // (4 * tile.config["R"] * width)))


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def _signed(seed: int) -> int:
    """The lowest 64 bits of a seed as a signed number."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >= 1 << 63 else low


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
