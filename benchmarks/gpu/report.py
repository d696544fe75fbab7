"""The GPU benchmark as tables: the targets with what was measured, then everything else; markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.report import Row, table
from benchmarks.report import write as write_files
from benchmarks.timing import Ratio

ORDER = (
    "Ceilings",
    "Samples",
    "Latency",
    "Contenders",
    "Contenders, dependent weights",
    "Contenders, trained",
    "Masked forward",
    "Training step",
)
HIDDEN = {"shape", "rows", "precision", "width", "mask", "hidden"}  # said by the name of the row already


@dataclass(frozen=True)
class Target:
    """One line of the table of targets.

    Attributes:
        name: what is measured.
        must, goal: the bounds.
        table: where the figures are.
        pick: the figure of a row of that table, or None if the row is not about this target.
        larger: whether larger is better.
    """

    name: str
    must: float
    goal: float
    table: str
    pick: Callable[[Row], Any]
    larger: bool = False

    def verdict(self, value: float) -> str:
        """Whether a figure meets the goal, what is a must, or neither."""
        for bound, said in ((self.goal, "goal met"), (self.must, "must met, goal missed")):
            if value >= bound if self.larger else value <= bound:
                return said
        return "MISSED"


def _sampled(precision: str, least: int, most: int, column: str) -> Callable[[Row], Any]:
    def pick(row: Row) -> Any:
        fits = row["precision"] == precision and least <= row["rows"] <= most and row["shape"][0] == 784
        return row.get(column) if fits else None

    return pick


def _contender(name: str) -> Callable[[Row], Any]:
    return lambda row: row["times ours"] if row["case"] == name else None


MIB = "extra MiB"
TARGETS = (
    Target(
        "sample / one dense forward, B=131072, tf32",
        2.0,
        1.0,
        "Samples",
        _sampled("tf32", 10**5, 10**9, "sample / dense"),
    ),
    Target(
        "sample / one dense forward, B=131072, ieee",
        1.0,
        0.6,
        "Samples",
        _sampled("ieee", 10**5, 10**9, "sample / dense"),
    ),
    Target(
        "sample / one dense forward, B=16384, tf32",
        4.0,
        1.6,
        "Samples",
        _sampled("tf32", 10**4, 10**5, "sample / dense"),
    ),
    Target(
        "useful flops of a draw / those of a dense forward, a second, B=131072, tf32",
        0.25,
        0.5,
        "Samples",
        _sampled("tf32", 10**5, 10**9, "useful / dense rate"),
        larger=True,
    ),
    Target("memory beyond the samples, MiB, B=131072", 256, 64, "Samples", _sampled("ieee", 10**5, 10**9, MIB)),
    Target("naive eager / sample, 784x512x2, B=100", 60, 200, "Contenders", _contender("naive"), larger=True),
    Target("naive in a CUDA graph / sample", 10, 30, "Contenders", _contender("naive, CUDA graph"), larger=True),
    Target(
        "Jacobi in a CUDA graph / sample, trained",
        2,
        5,
        "Contenders, trained",
        _contender("Jacobi, CUDA graph"),
        larger=True,
    ),
    Target(
        "microseconds per variable, B up to 128",
        1.5,
        0.4,
        "Latency",
        lambda row: row["microseconds per variable"] if row["shape"] == (784, 512, 2) else None,
    ),
    Target(
        "kernels launched by a draw, B=1 to 128",
        24.5,
        1,
        "Latency",
        lambda row: row["launches"] if row["shape"] == (784, 512, 2) and row["launches"] != "–" else None,
    ),
    Target(
        "dense / staircase forward, N >= 2048",
        1.3,
        1.75,
        "Masked forward",
        lambda row: row["dense / ours"] if row["width"] >= 2048 else None,
        larger=True,
    ),
    Target(
        "torch.compile'd W*mask step / ours, H >= 2048",
        1.3,
        1.7,
        "Training step",
        lambda row: row["W*mask compiled / ours"] if row["hidden"] >= 2048 else None,
        larger=True,
    ),
)


def judged(tables: dict[str, list[Row]]) -> list[Row]:
    """A line for each figure that a target is about; targets without one say so."""
    lines = []
    for target in TARGETS:
        figures = [(row["case"], target.pick(row)) for row in tables.get(target.table, [])]
        figures = [(case, value) for case, value in figures if value is not None and value != "–"]
        bounds = {"must": target.must, "goal": target.goal}
        for case, value in figures:
            median = value.median if isinstance(value, Ratio) else float(value)
            verdict = target.verdict(median)
            lines.append({"target": target.name, **bounds, "measured": value, "at": case, "verdict": verdict})
        if not figures:
            lines.append({"target": target.name, **bounds, "measured": "–", "at": "–", "verdict": "not measured"})
    return lines


def markdown(bench: Bench, about: dict[str, Any]) -> str:
    """Everything, the targets last, where the end of a long output is seen."""
    said = ", ".join(f"{key} {value}" for key, value in about.items())
    parts = [
        f"# GPU\n\n{said}. Ours: backend {bench.backend}. Ratios: median of paired rounds [quartiles]. "
        "Method and meaning of the columns: benchmarks/README.md.",
    ]
    for name in (*ORDER, *(key for key in bench.tables if key not in ORDER)):
        rows = bench.tables.get(name)
        if rows:
            parts.append(f"## {name}\n\n" + as_table(rows))
    for title, lines in (("Left out", bench.skipped), ("FAILED", bench.failures)):
        if lines:
            parts.append(f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines))
    parts.append("## Targets\n\n" + as_table(judged({} if bench.quick else bench.tables)))
    return "\n\n".join(parts)


def as_table(rows: list[Row]) -> str:
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in HIDDEN]
    return table(tuple(columns), [{column: row.get(column, "–") for column in columns} for row in rows])


def write(bench: Bench, about: dict[str, Any], folder: Path, *, tell: bool) -> None:
    """Writes ``gpu.md`` and ``gpu.json``, both complete so far; ``tell`` prints the first."""
    result = {
        "about": about,
        "backend": bench.backend,
        "ceilings": bench.ceilings,
        "tables": bench.tables,
        "targets": judged({} if bench.quick else bench.tables),
        "left out": bench.skipped,
        "failures": bench.failures,
    }
    write_files("gpu", folder, markdown(bench, about), result, tell=tell)
