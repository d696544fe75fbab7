"""The compiled backend: the C++ engine on CPU tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, NoReturn

import torch  # before _core, so that both share one OpenMP pool
from torch import Tensor

from made_fast import _core
from made_fast.backends.cpp.arrays import layout
from made_fast.masks.plan import MaskPlan, MaskSide
from made_fast.masks.plan_cache import digest_with
from made_fast.outputs.decoding import Decoding
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import Program
from made_fast.programs.schedule import Schedule
from made_fast.requests.conditions import Conditions
from made_fast.requests.piece import Piece

__all__ = [
    "Packed",
    "build_config",
    "draw",
    "has_bf16",
    "instruction_set",
    "masked_linear",
    "masked_linear_grad_input",
    "masked_linear_grad_weight",
    "pack",
    "repack",
    "unpack",
]

_INSTRUCTION_SETS = _core.instruction_sets()
# What a draw without them is handed: for None the binding would look for a conversion, which takes a microsecond.
_NO_CONDITIONS, _PLAIN = _core.Conditions(), _core.Decoding()
_MACS_PER_THREAD = 1_000_000  # of a masked matmul: threads that meet for less lose more than they gain
_WEIGHTS_PER_THREAD = 1 << 16  # to be packed, likewise


# Sets of four binary inputs that an operation must have so that each set is one of sixteen sums: for fewer the sums take
# longer than the products (measured at 16 to 784 variables).
LEAST_QUADS = 24


class Status(IntEnum):
    """How a call of the engine ended; the numbers are those of csrc/plan/codes.h."""

    OK = 0
    NO_MEMORY = 1
    NOT_A_NUMBER = 2


class Packed(NamedTuple):
    """A program made ready for ``draw``; weights are copied."""

    features: int
    native: _core.SamplerF32 | _core.SamplerF64
    isa: str


def instruction_set() -> str:
    """The instruction set in use: the best that this processor has, or ``MADE_FAST_ISA`` from the environment.

    Raises:
        ValueError: ``MADE_FAST_ISA`` names one that this processor or this build does not have.
    """
    wanted = os.environ.get("MADE_FAST_ISA", _INSTRUCTION_SETS[0])
    if wanted not in _INSTRUCTION_SETS:
        known = ", ".join(_INSTRUCTION_SETS)
        raise ValueError(f"MADE_FAST_ISA must be one of {known} on this processor, got {wanted!r}")
    return wanted


def has_bf16() -> bool:
    """Whether this processor and build have the bf16 instruction."""
    return bool(_core.has_bf16())


def build_config() -> dict[str, object]:
    """Compiler, build type, whether there are threads, instruction sets that can run here, and the one in use."""
    compiler, build_type = _core.compiler()
    return {
        "compiler": compiler,
        "build_type": build_type,
        "openmp": _core.openmp,
        "instruction_sets": _core.instruction_sets(),
        "instruction_set": instruction_set(),
        "bf16": has_bf16(),
        "threads": torch.get_num_threads(),
    }


def pack(program: Program, schedule: Schedule, *, bf16: bool = False) -> Packed:
    """Copies the weights into the engine's layout; with ``bf16`` for the processor's bf16 instruction as well.

    Raises:
        ValueError: the compiled module lacks a function or a conditional of the program.
    """
    for function in sorted(program.functions):
        _function_code(function)
    kind = _core.SamplerF64 if program.dtype == torch.float64 else _core.SamplerF32
    arguments = layout(program, schedule)
    arguments["conditionals"] = [_core.Conditional(**each) for each in arguments["conditionals"]]
    arguments["affines"] = [_core.Affine(**each) for each in arguments["affines"]]
    native = kind(**arguments, bf16=bf16, least_quads=LEAST_QUADS)
    return Packed(schedule.features, native, instruction_set())


def repack(packed: Packed, tensors: Sequence[Tensor | None]) -> Packed | None:
    """The same program with other weights, packed without planning anything again; what was packed stays as it is.

    Args:
        packed: from ``pack``.
        tensors: as of ``Program.tensors``, contiguous, of the dtype of the program; copied. What lies under masks is not
            drawn from.

    Returns:
        None where a number is not finite.
    """
    addresses = [0 if each is None else each.data_ptr() for each in tensors]
    threads = packed.native.column_macs // _WEIGHTS_PER_THREAD
    native = packed.native.repacked(addresses, 1 if threads < 2 else min(torch.get_num_threads(), threads))
    return None if native is None else Packed(packed.features, native, packed.isa)


def unpack(packed: Packed) -> Tensor:
    """The numbers of all of ``Program.tensors``, one after another: zeros under masks, and of what reaches no parameter."""
    return torch.from_numpy(packed.native.weights())


def draw(
    packed: Packed,
    out: Tensor,
    piece: Piece,
    *,
    rows_at_once: int = 0,
    isa: str | None = None,
) -> None:
    """Draws rows; see ``reference.draw``. The interpreter lock is released meanwhile.

    Args:
        packed: from ``pack``.
        out: (B, D), contiguous, the dtype of the program; written.
        piece: which rows, and what else is written.
        rows_at_once: 0 lets the engine choose; 1 forces the path for few rows, more forces tiles of so many rows.
        isa: instruction set; the one in use when packed if left out.

    Raises:
        FloatingPointError: the parameters of a drawn variable were nan.
        MemoryError: there was none for the scratch.
    """
    assert out.is_contiguous() and out.shape[1] == packed.features
    rows, context, conditions = piece.rows, piece.context, piece.conditions
    assert rows is None or (rows.dtype == torch.int64 and rows.shape == out.shape[:1] and rows.is_contiguous())
    assert rows is None or rows.device.type == "cpu"
    status = packed.native.draw(  # by place: names take as long as the rest of a call
        packed.isa if isa is None else isa,
        out.shape[0],
        piece.first_row + piece.row_offset,
        0 if rows is None else rows.data_ptr(),
        piece.seed & 0xFFFFFFFFFFFFFFFF,
        0 if context is None else context.data_ptr(),
        piece.row_offset,
        piece.rows_per_condition,
        out.data_ptr(),
        0 if piece.log_prob is None else piece.log_prob.data_ptr(),
        0 if piece.log_weight is None else piece.log_weight.data_ptr(),
        _NO_CONDITIONS if conditions is None else _addresses(conditions),
        _decoding(piece.decoding) if piece.decoding.features else _PLAIN,
        torch.get_num_threads(),
        rows_at_once,
    )
    if status:
        _refuse(status, "the sampler")


def _refuse(status: int, where: str) -> NoReturn:
    if status == Status.NO_MEMORY:
        raise MemoryError(f"no memory for the scratch of {where}")
    raise FloatingPointError("parameters became nan while drawing: weights or context are too large for this dtype")


def _addresses(conditions: Conditions) -> _core.Conditions:
    """Where the arrays of conditions lie, 0 for those that are not there; and the flags in a row of ``support``."""

    def address(tensor: Tensor | None) -> int:
        assert tensor is None or tensor.is_contiguous()
        return 0 if tensor is None else tensor.data_ptr()

    support, sums = conditions.support, conditions.sums
    held = {}
    if sums is not None:
        held = {
            "sum_pattern": address(sums.pattern),
            "sum_lacking": address(sums.lacking),
            "sum_reaches": address(sums.reaches),
            "sum_bits": address(sums.bits),
            "num_sums": sums.lacking.shape[1],
        }
    return _core.Conditions(
        given=address(conditions.given),
        observed=address(conditions.observed),
        support=address(support),
        bounds=address(conditions.bounds),
        constrained=0 if support is None else address(conditions.constrained),
        support_size=0 if support is None else support.shape[1],
        **held,
    )


def _decoding(decoding: Decoding) -> _core.Decoding:
    return _core.Decoding(
        temperature=decoding.temperature, greedy=decoding.greedy, top_k=decoding.top_k, top_p=decoding.top_p
    )


# The functions that the compiled module has under the number that Python gives them.
_SHARED = set(enumerate(FUNCTIONS)) & set(enumerate(_core.tables()["Function"]))
_CODES = {name: code for code, name in sorted(_SHARED)}


def _function_code(function: str) -> int:
    """The code by which the engine knows a function."""
    if function not in _CODES:
        known = ", ".join(_CODES)
        raise ValueError(f"the compiled module has no function {function!r}, it has {known}")
    return _CODES[function]


digest_with(_core.digest)
digest_parts = _core.digest_parts


def masked_linear(
    x: Tensor,
    weight: Tensor,
    plan: MaskPlan,
    bias: Tensor | None = None,
    activation: str = "identity",
    *,
    isa: str | None = None,
) -> Tensor:
    """See ``reference.masked_linear``; tensors contiguous, x (B, in)."""
    strides = (plan.shape[1], 1)
    return _matmul(plan, "forward", x, weight, strides, bias, activation, isa)


def masked_linear_grad_input(grad: Tensor, weight: Tensor, plan: MaskPlan, *, isa: str | None = None) -> Tensor:
    """See ``reference.masked_linear_grad_input``; tensors contiguous, grad (B, out)."""
    strides = (1, plan.shape[1])  # the weight transposed
    return _matmul(plan, "backward", grad, weight, strides, None, "identity", isa)


def _matmul(
    plan: MaskPlan,
    side: str,
    x: Tensor,
    weight: Tensor,
    strides: tuple[int, int],
    bias: Tensor | None,
    activation: str,
    isa: str | None,
) -> Tensor:
    out = x.new_empty(x.shape[0], plan.shape[0] if side == "forward" else plan.shape[1])
    run = _core.masked_matmul_f64 if x.dtype == torch.float64 else _core.masked_matmul_f32
    status = run(
        instruction_set() if isa is None else isa,
        _native(plan, side),
        x.shape[0],
        x.data_ptr(),
        weight.data_ptr(),
        *strides,
        0 if bias is None else bias.data_ptr(),
        _function_code(activation),
        out.data_ptr(),
        _threads(plan, x.shape[0]),
    )
    return _done(out, status)


def masked_linear_grad_weight(grad: Tensor, x: Tensor, plan: MaskPlan, *, isa: str | None = None) -> Tensor:
    """See ``reference.masked_linear_grad_weight``; tensors contiguous, grad (B, out), x (B, in)."""
    out = grad.new_empty(plan.shape)
    run = _core.masked_outer_f64 if grad.dtype == torch.float64 else _core.masked_outer_f32
    status = run(
        instruction_set() if isa is None else isa,
        _native(plan, "forward"),
        grad.shape[0],
        grad.data_ptr(),
        x.data_ptr(),
        out.data_ptr(),
        _threads(plan, grad.shape[0]),
    )
    return _done(out, status)


def _native(plan: MaskPlan, name: str) -> _core.MaskSide:
    native = plan.made.get(f"cpp {name}")
    if native is None:
        side: MaskSide = getattr(plan, name)
        native = plan.made[f"cpp {name}"] = _core.MaskSide(
            rows=side.rows,
            columns=side.columns,
            groups=side.groups,
            longest_first=side.longest_first,
            positions=side.positions,
            bits=side.bits,
            contiguous=side.contiguous,
        )
    return native


def _threads(plan: MaskPlan, batch: int) -> int:
    """As many as pay: waking one costs microseconds, and milliseconds where another program has its core."""
    return max(1, min(torch.get_num_threads(), batch * plan.kept // _MACS_PER_THREAD))


def _done(out: Tensor, status: int) -> Tensor:
    if status:
        _refuse(status, "a masked matmul")
    return out
