"""What the compilers make of the Triton kernels, without a GPU: registers, spills, shared memory, instructions.

python -m benchmarks.ahead_of_time [target ...]
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from made_fast.backends.triton import configs, matmul
from made_fast.backends.triton.launch import Config, Launch, recorded
from made_fast.mask_plan import MaskPlan, plan_from_degrees, plan_from_mask

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"ieee": torch.float32, "tf32": torch.float32, "half": torch.bfloat16}
_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel for one target."""

    name: str
    target: str
    config: Config
    assembly: str
    registers: int
    spills: int  # bytes of local memory, or spilled registers on AMD
    shared: int

    def count(self, pattern: str) -> int:
        """How many lines of the assembly have an instruction that matches."""
        return len(re.findall(pattern, self.assembly))


def compile_launch(launch: Launch, target: str) -> Compiled:
    """Compiles what was recorded, specialised as Triton would for these arguments."""
    values = {**launch.arguments, **dict(launch.config.blocks)}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        number = value.data_ptr() if isinstance(value, Tensor) else value
        if not isinstance(value, float) and number % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    options = {"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages}
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=TARGETS[target], options=options)
    name = launch.kernel.fn.__name__
    if target.startswith("sm"):
        registers, spills = _resources(made.asm["cubin"])
        return Compiled(name, target, launch.config, made.asm["sass"], registers, spills, made.metadata.shared)
    text = made.asm["amdgcn"]
    registers, spills = (int(re.findall(rf"\.{key}:\s+(\d+)", text)[0]) for key in ("vgpr_count", "vgpr_spill_count"))
    return Compiled(name, target, launch.config, text, registers, spills, made.metadata.shared)


def _type(value: object) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    sizes = {key: int(re.findall(rf"{key}:(\d+)", text)[0]) for key in ("REG", "STACK", "LOCAL")}
    return sizes["REG"], sizes["STACK"] + sizes["LOCAL"]


def plans(height: int = 512, width: int = 784) -> dict[str, MaskPlan]:
    """A mask of each kind: sorted as memory is, rows or columns or both in another order, and not nested."""
    degrees = np.arange(height) * width // height
    generator = np.random.default_rng(0)
    return {
        "sorted": plan_from_degrees(degrees, np.arange(width)),
        "rows": plan_from_degrees(generator.permutation(degrees), np.arange(width)),
        "columns": plan_from_degrees(degrees, generator.permutation(width)),
        "permuted": plan_from_degrees(generator.permutation(degrees), generator.permutation(width)),
        "listed": plan_from_mask(generator.random((height, width)) < 0.01),
    }


def record(call: Callable[[], object]) -> list[Launch]:
    """What a call would launch."""
    with recorded() as launches:
        call()
    return launches


def matmuls(units: Iterable[str] = DTYPES, kinds: Iterable[str] | None = None) -> Iterator[tuple[str, Launch]]:
    """Every launch of the masked matmuls: each configuration, for each kind of mask."""
    found = plans()
    for unit in units:
        torch.set_float32_matmul_precision("high" if unit == "tf32" else "highest")
        dtype = DTYPES[unit]
        x, weight, grad = (torch.empty(size, dtype=dtype) for size in ((1024, 784), (512, 784), (1024, 512)))
        for kind in found if kinds is None else kinds:
            plan = found[kind]
            calls: list[tuple[str, Callable[[], object]]] = []
            for config in configs.matmul_candidates(dtype, gathered=not plan.forward.columns_in_order):
                forward = functools.partial(matmul.masked_linear, x, weight, plan, weight[:, 0], "relu", config=config)
                calls.append(("forward", forward))
            for config in configs.matmul_candidates(dtype, gathered=not plan.backward.columns_in_order):
                backward = functools.partial(matmul.masked_linear_grad_input, grad, weight, plan, config=config)
                calls.append(("grad_input", backward))
            gathered = not (plan.forward.rows_in_order and plan.forward.columns_in_order)
            for config in configs.outer_candidates(dtype, gathered=gathered):
                outer = functools.partial(matmul.masked_linear_grad_weight, grad, x, plan, config=config)
                calls.append(("grad_weight", outer))
            for name, call in calls:
                for launch in record(call):
                    yield f"{launch.kernel.fn.__name__} {name} {unit} {kind}", launch
    torch.set_float32_matmul_precision("highest")


def main(targets: list[str]) -> None:
    """Prints one line for each kernel, configuration and target."""
    for title, launch in matmuls():
        for target in targets or TARGETS:
            made = compile_launch(launch, target)
            line = f"{title:40} {target:6} {launch.config!s:44} reg {made.registers:3} spill {made.spills:3}"
            print(f"{line} smem {made.shared:6}", _instructions(made), flush=True)


_SEEN = {
    "HGMMA": r"\bHGMMA",
    "HMMA": r"\bHMMA",
    "FFMA": r"\bFFMA",
    "LDGSTS128": r"LDGSTS\S*\.128",
    "LDGSTS32": r"LDGSTS(?!\S*\.128)",
    "LDG128": r"LDG\.\S*\.128",
    "LDG<128": r"LDG\.(?!\S*\.128)",
    "STG128": r"STG\S*\.128",
    "STG<128": r"STG(?!\S*\.128)",
    "mfma": r"v_mfma",
    "load128": r"(?:global|buffer)_load_dwordx4",
    "load<128": r"(?:global|buffer)_load_(?!dwordx4)",
}


def _instructions(made: Compiled) -> str:
    return " ".join(f"{name} {made.count(pattern)}" for name, pattern in _SEEN.items() if made.count(pattern))


if __name__ == "__main__":
    main(sys.argv[1:])
