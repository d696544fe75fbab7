"""Readings of compiled kernels held against a budget file, and written as tables. No triton is needed here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Bytes that one program may have. What is compiled for 8.0 has to run on 8.6 and 8.9 too, which have less than its 163 KiB.
SHARED_LIMITS = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
TENSOR_CORES = ("HGMMA", "HMMA", "MFMA")

Budget = dict[str, dict[str, tuple[int, int]]]  # variant -> target -> registers, shared bytes


class Measured(Protocol):
    """What is needed of a reading, see ``compiling.Reading``."""

    registers: int
    spills: int
    scalar_spills: int
    shared: int
    instructions: dict[str, int]
    in_loops: dict[str, int]
    in_innermost_loops: dict[str, int]
    conversions_in_loops: int
    wants_tensor_cores: bool


@dataclass(frozen=True)
class Variant:
    """A kernel as it is specialised: by the types and constants of its arguments, and by its configuration."""

    kernel: str
    arguments: str
    config: str
    launches: int = 1  # most launches of this kernel in one call of the backend

    @property
    def name(self) -> str:
        """The name of its row in the budget file."""
        return f"{self.kernel} | {self.arguments} | {self.config}"


Readings = Mapping[Variant, Mapping[str, Measured]]


def broken_limits(readings: Readings) -> list[str]:
    """What no budget could allow: spills, more shared memory than there is, a product that lost its tensor cores."""
    broken = []
    for variant, by_target in readings.items():
        for target, reading in by_target.items():
            where = f"{variant.name} on {target}"
            if reading.spills:
                broken.append(f"{where}: must not spill, found {reading.spills} bytes or registers spilled")
            if reading.shared > SHARED_LIMITS[target]:
                limit = SHARED_LIMITS[target]
                broken.append(f"{where}: shared memory must fit {limit} bytes, found {reading.shared}")
            if reading.wants_tensor_cores and not any(reading.instructions.get(name) for name in TENSOR_CORES):
                broken.append(f"{where}: its products must use tensor cores, found none of {', '.join(TENSOR_CORES)}")
    return broken


def over_budget(readings: Readings, budget: Budget, launched: Collection[str] = ()) -> list[str]:
    """Where readings and budget differ by more than a compiler's whim: 8 registers or 10 %, and no shared memory.

    Args:
        readings: of what was compiled.
        budget: what is allowed.
        launched: names of all variants that are launched, where not all were compiled.
    """
    broken = []
    for variant, by_target in readings.items():
        for target, reading in by_target.items():
            where, allowed = f"{variant.name} on {target}", budget.get(variant.name, {}).get(target)
            if allowed is None:
                broken.append(f"{where}: has no row in the budget; run with --write-budget")
                continue
            registers, shared = allowed
            slack = max(8, registers // 10)
            if reading.registers > registers + slack:
                broken.append(f"{where}: registers must be <= {registers} + {slack}, found {reading.registers}")
            if reading.shared > shared:
                broken.append(f"{where}: shared memory must be <= {shared} bytes, found {reading.shared}")
    gone = budget.keys() - {variant.name for variant in readings} - set(launched)
    broken += [f"{name}: is in the budget, but nothing launches it; run with --write-budget" for name in sorted(gone)]
    return broken


def budget_of(readings: Readings) -> Budget:
    """The budget that these readings just keep."""
    return {
        variant.name: {target: (reading.registers, reading.shared) for target, reading in by_target.items()}
        for variant, by_target in readings.items()
    }


def write(path: Path, triton: str, budget: Budget) -> None:
    """One line for each variant, in alphabetical order, so that a change is a readable difference."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(budget[name])}" for name in sorted(budget))
    path.write_text(f'{{"triton": {json.dumps(triton)}, "variants": {{\n{rows}\n}}}}\n')


def load(path: Path) -> tuple[str, Budget]:
    """The version of Triton a budget was written with, and the budget: registers and shared bytes."""
    content = json.loads(path.read_text())
    budget = {
        name: {target: (registers, shared) for target, (registers, shared) in row.items()}
        for name, row in content["variants"].items()
    }
    return content["triton"], budget


def short_names(variants: Iterable[Variant]) -> tuple[dict[Variant, str], str]:
    """For tables: arguments that tell variants of a kernel apart, and a line for each kernel with what they share."""
    by_kernel: dict[str, list[Variant]] = {}
    for variant in variants:
        by_kernel.setdefault(variant.kernel, []).append(variant)
    names, shared = {}, []
    for kernel, group in sorted(by_kernel.items()):
        parts = {variant: variant.arguments.split(", ") for variant in group}
        common = [part for part in parts[group[0]] if all(part in each for each in parts.values())]
        shared.append(f"- `{kernel}`: {', '.join(common)}")
        for variant, each in parts.items():
            names[variant] = ", ".join(part for part in each if part not in common)
    return names, "\n".join(shared)


def _ordered(readings: Readings) -> list[tuple[Variant, Mapping[str, Measured]]]:
    return sorted(readings.items(), key=lambda item: item[0].name)


def resources(readings: Readings, targets: Iterable[str]) -> str:
    """Markdown: registers / spills / shared KiB for each variant and target."""
    targets = list(targets)
    names, shared = short_names(readings)
    lines = [
        f"| kernel | arguments | configuration | {' | '.join(targets)} |",
        "|---|---|---|" + "---:|" * len(targets),
    ]
    for variant, by_target in _ordered(readings):
        cells = []
        for target in targets:
            reading = by_target[target]
            scalar = f" ({reading.scalar_spills})" if reading.scalar_spills else ""
            cells.append(f"{reading.registers} / {reading.spills}{scalar} / {reading.shared / 1024:.3g}")
        lines.append(f"| {variant.kernel} | {names[variant]} | {variant.config} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nArguments that all variants of a kernel share:\n\n{shared}"


def wide_share(counts: Mapping[str, int]) -> float | None:
    """Share of the bytes that come by 16-byte loads, of all global loads in the text; None without loads."""
    loads = {name: int(name.split()[1]) * count for name, count in counts.items() if name.startswith("LDG")}
    total = sum(loads.values())
    return sum(size for name, size in loads.items() if name.endswith(" 16")) / total if total else None


def product_of(variant: Variant) -> str:
    """How a variant multiplies: ``bf16`` or ``fp16`` as its data are, else its precision for fp32; empty without products."""
    half = next((kind for kind in ("bf16", "fp16") if kind in variant.arguments.split(", ")[0].split("/")), None)
    precision = next((part[10:] for part in variant.arguments.split(", ") if part.startswith("PRECISION=")), "")
    return half or precision


def account(readings: Readings, targets: Iterable[str], counted: str) -> str:
    """Markdown: a row for each kernel and precision. Loads are those in loops (all, where a kernel has none of them)."""
    targets, groups = list(targets), {}
    for variant, by_target in _ordered(readings):
        groups.setdefault((variant.kernel, product_of(variant)), []).append((variant, by_target))
    lines = [
        f"| kernel | products | variants | most registers, {', '.join(targets)} | spills | most shared KiB | tensor cores "
        "| 16-byte loads | layout changes in loops | barriers in innermost loops | launches |",
        "|---|---|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for (kernel, product), group in groups.items():
        rows = [by_target[counted] for _, by_target in group]
        cores = dict.fromkeys(name for row in rows for name in TENSOR_CORES if row.instructions.get(name))
        wanted = any(row.wants_tensor_cores for row in rows)
        shares = [_share(row) for row in rows]
        shares = [share for share in shares if share is not None]
        cells = (
            kernel,
            product,
            str(len(group)),
            ", ".join(str(max(by_target[target].registers for _, by_target in group)) for target in targets),
            str(max(reading.spills for _, by_target in group for reading in by_target.values())),
            ", ".join(f"{max(by_target[target].shared for _, by_target in group) / 1024:.3g}" for target in targets),
            " ".join(cores) or ("none (expected)" if wanted else "none"),
            _range([f"{min(shares):.0%}", f"{max(shares):.0%}"]) if shares else "no load",
            _range([row.conversions_in_loops for row in rows]),
            _range([row.in_innermost_loops.get("BAR", 0) for row in rows]),
            str(max(variant.launches for variant, _ in group)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(reading: Measured) -> float | None:
    share = wide_share(reading.in_loops)
    return wide_share(reading.instructions) if share is None else share


def _range(values: list[Any]) -> str:
    if all(isinstance(value, int) for value in values):
        values = sorted(values)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}-{values[-1]}"
