"""Writes what the paired runner measured: markdown, JSON and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAIN_COLUMNS = (
    "case",
    "isa",
    "sample_ms",
    "sample / dense",
    "sample / oneDNN",
    "sample / own forward",
    "share of FMA peak",
    "naive / sample, in D",
    "scratch_mb",
    "foreign load",
)


def write(result: dict[str, Any], folder: Path) -> None:
    """Writes ``paired.md``, ``paired.json`` and ``paired.png`` into a folder, and prints the first."""
    text = markdown(result)
    (folder / "paired.md").write_text(text)
    (folder / "paired.json").write_text(json.dumps(result, default=vars, indent=1) + "\n")
    plot(result, folder / "paired.png")
    print(text)


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    machine = result["machine"]
    peaks = sorted({f"{row['peak_gflops']:.0f}" for row in result["main"]})
    parts = [
        f"Measured on {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine['compiler']}, {machine['date']}. FMA peak in the same run: {', '.join(peaks)} GFLOP/s. "
        "Ratios: median of paired rounds [quartiles].",
        "## Many rows\n\n" + table(MAIN_COLUMNS, result["main"]),
        "## One row\n\n" + table(MAIN_COLUMNS[:6], result["one row"]),
        "## All threads against one\n\n" + table(("case", "isa", "threads", "one / all"), result["threads"]),
        "## Batch sizes at 784x512x2\n\n" + table(("rows", "sample / dense", "sample / oneDNN"), result["batches"]),
    ]
    if result["bf16"]:
        parts.append("## bf16 weights\n\n" + table(tuple(result["bf16"][0]), result["bf16"]))
    for samplers in result["samplers"]:
        rows = [
            {"sampler": name, "ms": samplers["ms"][name], "times ours": samplers["ratios"][name]}
            for name in samplers["ms"]
        ]
        title = f"## Samplers at {samplers['case']} (Jacobi: {samplers['jacobi_passes']} passes)"
        more = [f"{key}: {value}" for key, value in samplers.items() if key.startswith(("rows that", "one row"))]
        parts.append("\n\n".join([title, *more, table(("sampler", "ms", "times ours"), rows)]))
    return "\n\n".join(parts) + "\n"


def table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """A markdown table of some columns of rows."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (row[column] for column in columns)
        lines.append(
            "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"
        )
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Time against batch size and against D."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    panels = (("batches", "rows", "rows drawn (D = 784, 2x512)"), ("features", "features", "D (256 rows, 2x512)"))
    for axis, (table, key, label) in zip(axes, panels, strict=True):
        rows = result[table]
        for name in ("naive (D masked passes)", "dense forward", "oneDNN forward", "made_fast"):
            style = {"linewidth": 2.5} if name == "made_fast" else {"linestyle": "--"}
            seconds = [1e3 * row["seconds"][name] for row in rows]
            axis.loglog([row[key] for row in rows], seconds, marker="o", label=name, **style)
        axis.set_xlabel(label)
        axis.set_ylabel("milliseconds")
        axis.grid(visible=True, which="both", alpha=0.25)
    axes[0].legend(frameon=False)
    figure.suptitle(f"Drawing whole samples on {result['machine']['processor']}", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
