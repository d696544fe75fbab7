"""Ahead-of-time compilation of what would be launched, and what the binaries say about it; no GPU is needed.

A recorded launch is specialised by Triton's own binder, so that what is compiled is what a launch with these arguments would
compile: which integers are constants, which pointers are known to be aligned.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from made_fast.backends.triton.launch import Launch, compile_options

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Source:
    """A kernel as a launch specialises it for one target; only what can be sent to another process."""

    module: str
    kernel: str
    target: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    options: dict[str, Any]


@dataclass
class Reading:
    """What a binary says: registers for each thread, spilled bytes (registers on AMD), shared bytes, instructions."""

    registers: int = 0
    spills: int = 0
    scalar_spills: int = 0  # AMD only: they go to lanes of vector registers, not to memory
    shared: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    in_loops: dict[str, int] = field(default_factory=dict)
    in_innermost_loops: dict[str, int] = field(default_factory=dict)
    conversions_in_loops: int = 0  # changes of layout, each a way through shared memory or shuffles
    wants_tensor_cores: bool = False
    seconds: float = 0.0


def specialize(launch: Launch, target: str) -> Source:
    """The source that ``launch`` would compile on this target."""
    backend = make_backend(TARGETS[target])
    kernel = launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options = compile_options(launch.config, nvidia=TARGETS[target].backend == "cuda")
    bound, specialization, options = bind(**launch.arguments, **dict(launch.config.blocks), **options)
    _, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    attributes = {path: found for path, found in attributes.items() if found}
    return Source(kernel.fn.__module__, kernel.fn.__name__, target, signature, constants, attributes, options)


def describe(source: Source, launch: Launch) -> tuple[str, str, str]:
    """Kernel, variant and configuration as text: two sources that differ for a target differ in it too."""
    names = list(source.signature)
    blocks = dict(launch.config.blocks)
    aligned = {path[0] for path, found in source.attributes.items() if ["tt.divisibility", 16] in found}
    unspecialized = {param.num for param in launch.kernel.params if param.do_not_specialize}
    pointers = [kind[1:] for kind in source.signature.values() if kind.startswith("*")]
    parts = ["/".join(dict.fromkeys(pointers))]
    for (place,), value in source.constants.items():
        if names[place] not in blocks:
            parts.append(f"{names[place]}={value}")
    parts += [f"{name}:{kind}" for name, kind in source.signature.items() if kind in {"i64", "u64"}]
    ragged = [
        name
        for place, (name, kind) in enumerate(source.signature.items())
        if (kind.startswith("*") or kind in {"i32", "i64"}) and place not in aligned | unspecialized
    ]
    if ragged:
        parts.append(f"any {' '.join(ragged)}")
    return source.kernel, ", ".join(parts), str(launch.config)


def read(source: Source, instructions: bool = True) -> Reading:
    """Compiles for the target and reads the binary.

    Args:
        source: what is compiled.
        instructions: whether those of NVIDIA binaries are counted, which takes as long as a small kernel takes to compile.
            Without, only products of matrices are, in the PTX.
    """
    start = time.perf_counter()
    kernel = getattr(importlib.import_module(source.module), source.kernel)
    compiled = triton.compile(
        ASTSource(kernel, dict(source.signature), dict(source.constants), dict(source.attributes)),
        target=TARGETS[source.target],
        options=dict(source.options),
    )
    if "amdgcn" in compiled.asm:
        reading = parse_amd(compiled.asm["amdgcn"])
    else:
        reading = parse_nvidia(_cuobjdump(compiled.asm["cubin"], "-res-usage", *["-sass"] * instructions))
        if not instructions:
            reading.instructions = products_in_ptx(compiled.asm["ptx"])
    reading.shared = compiled.metadata.shared
    reading.conversions_in_loops = conversions_in_loops(compiled.asm["ttgir"])
    reading.wants_tensor_cores = wants_tensor_cores(compiled.asm["ttir"])
    reading.seconds = time.perf_counter() - start
    return reading


def _cuobjdump(cubin: bytes, *options: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file, name = tempfile.mkstemp(suffix=".cubin")
    try:
        with os.fdopen(file, "wb") as out:
            out.write(cubin)
        return subprocess.run([tool, *options, name], capture_output=True, text=True, check=True).stdout
    finally:
        os.unlink(name)


def products_in_ptx(ptx: str) -> dict[str, int]:
    """Products of matrices in PTX, under the names that they have in binaries."""
    counts = {"HGMMA": ptx.count("wgmma.mma_async"), "HMMA": ptx.count("mma.sync.aligned")}
    return {name: count for name, count in counts.items() if count}


_SASS = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.MULTILINE)


def parse_nvidia(text: str) -> Reading:
    """Reads what ``cuobjdump -res-usage``, and ``-sass`` if wanted, prints."""
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    if usage.keys() != {"REG", "STACK", "LOCAL"}:
        raise ValueError(f"cuobjdump must print REG, STACK and LOCAL, got {text[:300]!r}")
    lines = [(int(place, 16), code, rest) for place, code, rest in _SASS.findall(text)]
    loops = []
    for place, code, rest in lines:
        destination = re.search(r"0x([0-9a-f]+)\s*$", rest)
        if code.startswith("BRA") and destination and int(destination[1], 16) < place:
            loops.append((int(destination[1], 16), place))
    kinds = [(place, _nvidia_kind(code)) for place, code, _ in lines]
    reading = _counted(kinds, loops)
    spilled = sum(reading.instructions.get(name, 0) for name in ("LDL", "STL"))
    reading.registers = int(usage["REG"])
    reading.spills = max(int(usage["STACK"]) + int(usage["LOCAL"]), spilled)
    return reading


def _nvidia_kind(code: str) -> str | None:
    """The name under which an instruction is counted: loads and stores with the bytes of one thread."""
    name, *suffixes = code.split(".")
    if name in {"LDG", "LDGSTS", "STG"}:
        sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return f"{name} {next((sizes[each] for each in suffixes if each in sizes), 4)}"
    if name == "BAR":
        return "BAR" if "SYNC" in suffixes else None
    return name if name in {"HGMMA", "HMMA", "FFMA", "SHFL", "LDL", "STL", "LDS", "STS", "ATOMG", "MUFU"} else None


def _counted(kinds: list[tuple[int, str | None]], loops: list[tuple[int, int]]) -> Reading:
    innermost = [
        loop
        for loop in loops
        if not any(loop[0] <= other[0] and other[1] <= loop[1] and other != loop for other in loops)
    ]

    def count(ranges: list[tuple[int, int]]) -> dict[str, int]:
        return dict(Counter(kind for at, kind in kinds if kind and any(low <= at <= high for low, high in ranges)))

    everything = dict(Counter(kind for _, kind in kinds if kind))
    return Reading(instructions=everything, in_loops=count(loops), in_innermost_loops=count(innermost))


_AMD_BYTES = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "short": 2}


def parse_amd(text: str) -> Reading:
    """Reads assembly for an AMD target; labels before a backward branch bound the loops."""
    values = {name: int(number) for name, number in re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    labels: dict[str, int] = {}
    kinds: list[tuple[int, str | None]] = []
    loops: list[tuple[int, int]] = []
    for place, line in enumerate(text.splitlines()):
        words = line.split()
        if not words:
            continue
        if words[0].endswith(":"):
            labels[words[0][:-1]] = place
        elif words[0].startswith(("s_branch", "s_cbranch")) and words[-1] in labels:
            loops.append((labels[words[-1]], place))
        kinds.append((place, _amd_kind(words[0])))
    reading = _counted(kinds, loops)
    reading.registers = values["vgpr_count"]
    reading.spills = max(values["vgpr_spill_count"], values["private_segment_fixed_size"])
    reading.scalar_spills = values["sgpr_spill_count"]
    return reading


def _amd_kind(code: str) -> str | None:
    for prefix, name in (("global_load_", "LDG"), ("buffer_load_", "LDG"), ("global_store_", "STG")):
        if code.startswith(prefix):
            return f"{name} {_AMD_BYTES.get(code.removeprefix(prefix).split('_')[0], 1)}"
    if code.startswith("buffer_store_"):
        return f"STG {_AMD_BYTES.get(code.removeprefix('buffer_store_').split('_')[0], 1)}"
    if code == "s_barrier":
        return "BAR"
    return "MFMA" if code.startswith("v_mfma") else "SHFL" if code.startswith("ds_bpermute") else None


def conversions_in_loops(ttgir: str) -> int:
    """Number of ``convert_layout`` within loops of Triton's GPU representation."""
    inside, count = [False], 0
    for line in ttgir.splitlines():
        text = line.split(" loc(")[0].strip()
        if inside[-1] and "ttg.convert_layout" in text:
            count += 1
        popped = inside.pop() if text.startswith("}") and len(inside) > 1 else None
        if text.endswith("{"):
            inside.append(inside[-1] or bool(popped) or "scf.for" in text or "scf.while" in text)
    return count


def wants_tensor_cores(ttir: str) -> bool:
    """Whether a product has operands, or a precision, for which tensor cores are used."""
    return any(
        "inputPrecision = tf32" in line or re.search(r"x(bf16|f16)>? \*", line)
        for line in ttir.splitlines()
        if "tt.dot " in line
    )
