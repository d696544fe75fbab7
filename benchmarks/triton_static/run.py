"""Every kernel of the Triton backend compiled for three GPUs, without a GPU, and held against a budget.

Prints registers, spills and shared memory as the binaries say them, and an account of their instructions. Fails where a
kernel spills, needs more shared memory than there is, lost its tensor cores, or goes over ``budget.json`` in this folder,
which ``--write-budget`` writes after a change of kernels that is meant. ``--quick`` compiles few variants for one GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import triton

from benchmarks.report import write
from benchmarks.triton_static import budget as budgets
from benchmarks.triton_static.budget import Variant
from benchmarks.triton_static.compiling import TARGETS, Reading, describe, read, specialize
from benchmarks.triton_static.summary import summary
from made_fast.backends.triton.launch import Launch

TEXT = "the GPU kernels compiled without a GPU, held against a budget of registers; about two minutes"
QUICK = {"targets": ["sm_90"], "no_budget": True}
QUICK_VARIANTS = 4
BUDGET = Path(__file__).with_name("budget.json")
WORKERS = 2


def distinct(calls: Iterable[Sequence[Launch]]) -> dict[Variant, Launch]:
    """The variants that calls of the backend launch, each with a launch of it.

    Args:
        calls: for each call of a function of the backend, what it launches.
    """
    launched: dict[tuple[str, str, str], Launch] = {}
    sources, launches = {}, {}
    for call in calls:
        for launch in call:
            source = specialize(launch, "sm_90")
            key = describe(source, launch)
            if sources.setdefault(key, source) != source:
                raise ValueError(f"two specialisations must not have one name, got {source} and {sources[key]}")
            launched.setdefault(key, launch)
        for kernel, count in Counter(launch.kernel for launch in call).items():
            name = kernel.fn.__name__
            launches[name] = max(launches.get(name, 0), count)
    return {Variant(*key, launches[key[0]]): launch for key, launch in launched.items()}


def compile_all(
    variants: dict[Variant, Launch], targets: Sequence[str], counted: str
) -> dict[Variant, dict[str, Reading]]:
    """Compiles every variant for every target in worker processes; instructions are counted for one target."""
    jobs = [(variant, target) for variant in variants for target in targets]
    sources = [specialize(variants[variant], target) for variant, target in jobs]
    counting = [target == counted for _, target in jobs]
    readings: dict[Variant, dict[str, Reading]] = {variant: {} for variant in variants}
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for (variant, target), reading in zip(jobs, pool.map(read, sources, counting), strict=True):
            readings[variant][target] = reading
    return readings


def judge(readings: budgets.Readings, budget: Path | None, launched: Collection[str] = ()) -> tuple[list[str], str]:
    """What is wrong, and what the readings were held against."""
    failures = budgets.broken_limits(readings)
    if budget is None:
        return failures, "budget not compared"
    version, allowed = budgets.load(budget)
    if version != triton.__version__:
        return failures, f"budget not compared: it is for triton {version}, this is {triton.__version__}"
    return failures + budgets.over_budget(readings, allowed, launched), "within budget"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--budget", type=Path, default=BUDGET, help="default: benchmarks/triton_static/budget.json")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="compiles only every N-th variant")
    parser.add_argument("--no-budget", action="store_true", help="only spills and what no budget could allow decide")
    parser.add_argument("--write-budget", action="store_true", help="writes the budget that this run just keeps")


def run(arguments: argparse.Namespace, calls: Iterable[Sequence[Launch]] | None = None) -> int:
    """The suite; ``calls`` stands in for what the backend launches. Writes ``triton_static.md`` and ``.json``."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("TRITON_INTERPRET must be unset: interpreted kernels cannot be compiled")
    if arguments.write_budget and (list(arguments.targets) != list(TARGETS) or arguments.every != 1):
        raise SystemExit(f"--write-budget must be used with every variant and all targets ({' '.join(TARGETS)})")
    start = time.perf_counter()
    if calls is None:
        from benchmarks.triton_static.calls import recorded_calls

        calls = recorded_calls()
    variants = distinct(calls)
    launched = {variant.name for variant in variants}
    variants = dict(islice(variants.items(), 0, None, arguments.every))
    if arguments.quick:
        variants = dict(islice(variants.items(), QUICK_VARIANTS))
    shown = "sm_90" if "sm_90" in arguments.targets else arguments.targets[-1]
    readings = compile_all(variants, arguments.targets, shown)
    if arguments.write_budget:
        budgets.write(arguments.budget, triton.__version__, budgets.budget_of(readings))
    failures, compared = judge(readings, None if arguments.no_budget else arguments.budget, launched)
    content = {
        variant.name: {target: asdict(reading) for target, reading in row.items()} for variant, row in readings.items()
    }
    text = tables(readings, arguments.targets, shown)
    write("triton_static", arguments.out, text, {"triton": triton.__version__, "variants": content})
    took = f"{time.perf_counter() - start:.0f} s"
    counted = f"{len(readings)} variants x {len(arguments.targets)} targets"
    print("", *failures, sep="\n")
    print(f"{counted}: {len(failures)} failures, {took}" if failures else f"{counted}: no spill, {compared}, {took}")
    return 1 if failures else 0


def tables(readings: dict[Variant, dict[str, Reading]], targets: Sequence[str], shown: str) -> str:
    """What was read of every variant, what of their instructions, and a line for each configuration."""
    return "\n\n".join(
        [
            f"Registers / spills (AMD: scalar spills) / shared KiB, triton {triton.__version__}",
            budgets.resources(readings, targets),
            f"By kernel, instructions on {shown}",
            budgets.account(readings, targets, shown),
            "In short",
            summary(readings, targets, shown),
        ]
    )
