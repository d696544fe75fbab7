"""Readings of compiled kernels held against a budget file, and written as tables. No triton is needed here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}  # bytes that one program may have
TENSOR_CORES = ("HGMMA", "HMMA", "MFMA")

Budget = dict[str, dict[str, tuple[int, int]]]  # variant -> target -> registers, shared bytes


class Measured(Protocol):
    """What is needed of a reading, see ``triton_compile.Reading``."""

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
    found = []
    for variant, by_target in readings.items():
        for target, reading in by_target.items():
            where = f"{variant.name} on {target}"
            if reading.spills:
                found.append(f"{where}: must not spill, found {reading.spills} bytes or registers spilled")
            if reading.shared > SHARED_LIMITS[target]:
                limit = SHARED_LIMITS[target]
                found.append(f"{where}: shared memory must fit {limit} bytes, found {reading.shared}")
            if reading.wants_tensor_cores and not any(reading.instructions.get(name) for name in TENSOR_CORES):
                found.append(f"{where}: its products must use tensor cores, found none of {', '.join(TENSOR_CORES)}")
    return found


def over_budget(readings: Readings, budget: Budget) -> list[str]:
    """Where readings and budget differ by more than a compiler's whim: 8 registers or 10 %, and no shared memory."""
    found = []
    for variant, by_target in readings.items():
        for target, reading in by_target.items():
            where, allowed = f"{variant.name} on {target}", budget.get(variant.name, {}).get(target)
            if allowed is None:
                found.append(f"{where}: has no row in the budget; run with --write-budget")
                continue
            registers, shared = allowed
            slack = max(8, registers // 10)
            if reading.registers > registers + slack:
                found.append(f"{where}: registers must be <= {registers} + {slack}, found {reading.registers}")
            if reading.shared > shared:
                found.append(f"{where}: shared memory must be <= {shared} bytes, found {reading.shared}")
    gone = budget.keys() - {variant.name for variant in readings}
    found += [f"{name}: is in the budget, but nothing launches it; run with --write-budget" for name in sorted(gone)]
    return found


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


def account(readings: Readings, target: str) -> str:
    """Markdown: for each variant what its instructions say, loads by the loops they are in (all, where there is none)."""
    lines = [
        "| kernel | arguments | configuration | tensor cores | 16-byte loads | layout changes in loops "
        "| barriers: all, innermost loops | shuffles | launches |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    names, _ = short_names(readings)
    for variant, by_target in _ordered(readings):
        reading = by_target[target]
        counts = reading.instructions
        cores = [name for name in TENSOR_CORES if counts.get(name)]
        wanted = (
            ""
            if bool(cores) == reading.wants_tensor_cores
            else " (expected)"
            if not cores
            else ""
            if cores == ["MFMA"]
            else " (not expected)"
        )
        share = wide_share(reading.in_loops)
        share = wide_share(counts) if share is None else share
        cells = (
            variant.kernel,
            names[variant],
            variant.config,
            (" ".join(cores) or "none") + wanted,
            "no load" if share is None else f"{share:.0%}",
            str(reading.conversions_in_loops),
            f"{counts.get('BAR', 0)}, {reading.in_innermost_loops.get('BAR', 0)}",
            str(counts.get("SHFL", 0)),
            str(variant.launches),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
