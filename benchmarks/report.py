"""What every suite says in the end: on which machine, in tables, as markdown, JSON and pictures."""

from __future__ import annotations

import io
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def processor() -> str:
    """The name of the processor, with family and model where the system says them."""
    info = Path("/proc/cpuinfo")
    wanted = ("model name", "cpu family", "model\t")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    said = [line.split(":")[1].strip() for line in lines if line.startswith(wanted)]
    return f"{said[2]} (family {said[0]}, model {said[1]})" if len(said) == 3 else platform.processor()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch  # here, so that tables can be written without it

    from made_fast import build_config

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **build_config(),
    }


def measured_on(facts: Mapping[str, Any], *more: str, verb: str = "Measured") -> str:
    """The sentence that begins every page of tables: processor, threads, versions, date, and what a suite adds."""
    said = [facts["processor"], f"{facts['threads']} threads", f"torch {facts['torch']}"]
    if facts.get("compiled"):
        said += [facts["compiler"], facts["instruction_set"]]
    return f"{verb} on {', '.join([*said, facts['date'], *more])}."


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table of some columns of rows."""
    lines = [_line(columns), "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(_line([_cell(row[column]) for column in columns]) for row in rows)])


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    """One line of a table; a bar inside a cell would end it."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def write(name: str, folder: Path, text: str, result: object, *, tell: bool = True) -> None:
    """Writes ``NAME.md`` and ``NAME.json`` into a folder, and prints the first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text.rstrip("\n") + "\n")
    (folder / f"{name}.json").write_text(json.dumps(result, default=_plain, indent=1) + "\n")
    if tell:
        print(text, flush=True)


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dict__") else str(value)


def write_figure(figure: Any, path: Path, *, dpi: int = 100, colours: int = 256) -> None:
    """Writes a figure of matplotlib as a PNG with a palette, in half of the bytes."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, facecolor="white")
    with Image.open(buffer) as picture:
        picture.convert("RGB").quantize(colours, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
