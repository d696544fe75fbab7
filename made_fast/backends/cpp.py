"""The compiled backend: the C++ engine on CPU tensors."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch  # before _core, so that both share one OpenMP pool
from torch import Tensor

from made_fast import _core
from made_fast.outputs import Output
from made_fast.program import Affine, Program
from made_fast.schedule import AffinePlan, Schedule

__all__ = ["Packed", "build_config", "draw", "instruction_set", "pack"]

_NO_MEMORY, _NOT_A_NUMBER = 1, 2


@dataclass(frozen=True)
class Packed:
    """A program made ready for ``draw``; weights are copied."""

    features: int
    native: _core.SamplerF32 | _core.SamplerF64
    isa: str


def instruction_set() -> str:
    """The instruction set in use: the best that this processor has, or ``MADE_FAST_ISA`` from the environment.

    Raises:
        ValueError: ``MADE_FAST_ISA`` names one that this processor or this build does not have.
    """
    names = _core.instruction_sets()
    wanted = os.environ.get("MADE_FAST_ISA", names[0])
    if wanted not in names:
        raise ValueError(f"MADE_FAST_ISA must be one of {', '.join(names)} on this processor, got {wanted!r}")
    return wanted


def build_config() -> dict[str, object]:
    """Compiler, build type, instruction sets that can run here, and the one in use."""
    compiler, build_type = _core.compiler()
    return {
        "compiler": compiler,
        "build_type": build_type,
        "instruction_sets": _core.instruction_sets(),
        "instruction_set": instruction_set(),
        "bf16": _core.has_bf16(),
        "threads": torch.get_num_threads(),
    }


def pack(program: Program, schedule: Schedule, output: Output, *, bf16: bool = False) -> Packed:
    """Copies the weights into the engine's layout; with ``bf16`` for the processor's bf16 instruction as well."""
    kind = _core.SamplerF64 if program.dtype == torch.float64 else _core.SamplerF32
    native = kind(
        features=schedule.features,
        context_features=schedule.context_features,
        num_slots=schedule.num_slots,
        x_slot=schedule.x_slot,
        context_slot=schedule.context_slot,
        steps=schedule.steps,
        variables=schedule.variables,
        noise_steps=schedule.noise_steps,
        param_slots=schedule.param_slots,
        context_units=schedule.context_units,
        affines=[_source(op, plan) for op, plan in zip(program.affines, schedule.affines, strict=True)],
        bf16=bf16,
    )
    return Packed(schedule.features, native, instruction_set())


def _source(op: Affine, plan: AffinePlan) -> tuple[object, ...]:
    """Weights with rows in slot order and columns in order of time, and what the engine must know of their mask."""
    rows, columns = torch.from_numpy(plan.rows), torch.from_numpy(plan.columns)
    weight = torch.cat([term.weight for term in op.terms], dim=1)
    weight = weight.index_select(0, rows).index_select(1, columns).contiguous()
    bias = weight.new_zeros(len(rows)) if op.bias is None else op.bias.index_select(0, rows)
    return (
        plan.first_slot,
        weight.numpy(),
        weight.t().contiguous().numpy(),
        bias.contiguous().numpy(),
        plan.column_slots,
        plan.needed,
        plan.ready,
        plan.mask,
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
    rows_at_once: int = 0,
    isa: str | None = None,
) -> None:
    """Draws rows; see ``reference.draw``. The interpreter lock is released meanwhile.

    Args:
        packed: from ``pack``.
        out: (B, D), contiguous, the dtype of the program; written.
        log_prob: (B,), contiguous, the same dtype, or None; written.
        seed, first_row, row_offset, rows, rows_per_context: see ``reference.draw``; rows on the CPU.
        context: see ``reference.draw``; contiguous, the same dtype.
        rows_at_once: 0 lets the engine choose; 1 forces the path for few rows, more forces tiles of so many rows.
        isa: instruction set; the one in use when packed if left out.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
        MemoryError: there was none for the scratch.
    """
    assert out.is_contiguous() and out.shape[1] == packed.features
    assert rows is None or (rows.dtype == torch.int64 and rows.shape == out.shape[:1] and rows.is_contiguous())
    assert rows is None or rows.device.type == "cpu"
    status = packed.native.draw(
        isa=packed.isa if isa is None else isa,
        num_rows=out.shape[0],
        first_row=first_row + row_offset,
        rows=0 if rows is None else rows.data_ptr(),
        seed=seed & 0xFFFFFFFFFFFFFFFF,
        context=0 if context is None else context.data_ptr(),
        row_offset=row_offset,
        rows_per_context=rows_per_context,
        out=out.data_ptr(),
        log_prob=0 if log_prob is None else log_prob.data_ptr(),
        num_threads=torch.get_num_threads(),
        rows_at_once=rows_at_once,
    )
    if status == _NO_MEMORY:
        raise MemoryError("no memory for the sampler's scratch")
    if status == _NOT_A_NUMBER:
        raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")
