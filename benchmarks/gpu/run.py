"""The benchmark on a GPU.

Ceilings of the machine first, then what the design has targets for, then the rest as far as the time goes. Every result is
checked before it is timed; what cannot run is written down and the rest goes on. ``--device cpu --quick`` runs the same code
on a CPU (with ``TRITON_INTERPRET=1`` for the kernels).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import cases_of
from benchmarks.gpu import ceilings, expectations, report, sampling, training
from benchmarks.gpu.bench import Bench, Fatal
from benchmarks.gpu.clock import Clock
from benchmarks.report import processor
from made_fast import backends

TEXT = "on a GPU: draws, forwards and training steps beside plain torch, held against targets"
QUICK = {"seconds": 0.01}
SECTIONS = {
    "ceilings": ceilings.measure,
    "judged": sampling.measure_judged,
    "contenders": None,  # takes the trained model
    "forwards": training.measure_forwards,
    "steps": training.measure_steps,
    "rest": sampling.measure_rest,
}


def about(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    facts: dict[str, Any] = {"device": processor()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts = {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "L2": f"{properties.L2_cache_size >> 20} MiB",
            "memory": f"{properties.total_memory >> 30} GiB",
            "CUDA": torch.version.cuda,
        }
    try:
        facts["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        facts["triton"] = "not installed"
    return facts | {
        "interpreted": os.environ.get("TRITON_INTERPRET") == "1",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def measure_all(bench: Bench, arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    """All sections, writing what there is after each."""
    try:
        for name, section in SECTIONS.items():
            if arguments.only and name not in (*arguments.only, "ceilings"):
                continue
            if section is None:
                sampling.measure_contenders(bench, arguments.trained)
            else:
                section(bench)
            report.write(bench, facts, arguments.out, tell=False)
    except Fatal as error:
        bench.failures.append(f"nothing was measured after this: {error}")


def print_model(out: Path, *, quick: bool) -> None:
    """What is expected for cards that are not at hand."""
    tables = expectations.tables(cases_of("gpu, expected", quick=quick))
    text = "\n\n".join(f"### {name}\n\n{report.as_table(rows)}" for name, rows in tables.items()) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu-model.md").write_text(text)
    print(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="for everything (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for the rounds of a row (default: %(default)s)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="(default: %(default)s)")
    parser.add_argument("--backend", default="triton", help="the one that is measured as ours (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=tuple(SECTIONS), help="a section, may be repeated")
    parser.add_argument("--quiet", action="store_true", help="write the tables and do not print them")
    parser.add_argument(
        "--trained", type=Path, metavar="FILE", help="a trained model to compare the samplers on as well"
    )
    parser.add_argument("--model", action="store_true", help="print what is expected of an H100 and an H200 instead")


def run(arguments: argparse.Namespace) -> int:
    """Writes ``gpu.md`` and ``gpu.json`` and prints the tables last; 1 if anything was wrong."""
    if arguments.model:
        print_model(arguments.out, quick=arguments.quick)
        return 0
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "no CUDA device: torch.cuda.is_available() is false; --device cpu --quick tries the code", file=sys.stderr
        )
        return 2
    backends.choose(arguments.backend, backends.Needs(device, torch.float32, outputs=["bernoulli"]))  # or says why not
    clock = Clock(device, time.perf_counter() + 60 * arguments.minutes)
    if arguments.quick:
        clock.least = 1e-5

    def progress(name: str) -> None:
        print(f"{time.perf_counter() - clock.started:6.1f} s  {name}", file=sys.stderr, flush=True)

    bench = Bench(clock, arguments.backend, arguments.quick, arguments.seconds, progress)
    facts = about(device)
    measure_all(bench, arguments, facts)
    report.write(bench, facts, arguments.out, tell=not arguments.quiet)
    return 1 if bench.failures else 0
