"""The readings of compiled kernels in one line for each kernel, what multiplies, and configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.triton_static.budget import TENSOR_CORES, Measured, Readings, Variant, wide_share


def summary(readings: Readings, targets: Iterable[str], shown: str) -> str:
    """Markdown: registers, spills and shared KiB as ranges over variants, and what the instructions on ``shown`` say."""
    targets = list(targets)
    groups: dict[tuple[str, str, str], list[tuple[Variant, Mapping[str, Measured]]]] = {}
    for variant, by_target in readings.items():
        groups.setdefault((variant.kernel, _unit(variant), variant.config), []).append((variant, by_target))
    lines = [
        f"| kernel | products | configuration | variants | {' | '.join(targets)} | tensor cores | 16-byte loads | launches |",
        f"|---|---|---|---:|{'---:|' * len(targets)}---|---:|---:|",
    ]
    for (kernel, unit, config), members in sorted(groups.items()):
        cells = [_resources([by_target[target] for _, by_target in members]) for target in targets]
        on = [by_target[shown] for _, by_target in members]
        cores = {name for reading in on for name in TENSOR_CORES if reading.instructions.get(name)}
        shares = [wide_share(reading.in_loops) or wide_share(reading.instructions) or 0.0 for reading in on]
        wide = _range([round(100 * share) for share in shares]) + " %"
        launches = max(variant.launches for variant, _ in members)
        cells += [" ".join(sorted(cores)) or "none", wide, str(launches)]
        lines.append(f"| {kernel} | {unit} | {config} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _unit(variant: Variant) -> str:
    """What multiplies: fp32 units, tf32 or half-precision tensor cores."""
    if variant.arguments.startswith(("bf16", "fp16")) or "/bf16/" in variant.arguments:
        return "half"
    if "PRECISION" not in variant.arguments:
        return "fp32 sums"
    return "tf32" if "PRECISION=tf32" in variant.arguments else "ieee"


def _resources(readings: list[Measured]) -> str:
    """Registers / spills / shared KiB."""
    registers, shared = (
        _range([getattr(reading, name) // scale for reading in readings])
        for name, scale in (("registers", 1), ("shared", 1024))
    )
    return f"{registers} / {max(reading.spills for reading in readings)} / {shared}"


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
