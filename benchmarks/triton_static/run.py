"""Every kernel of the Triton backend compiled for three GPUs, without a GPU, and held against a budget.

    python -m benchmarks.triton_static                  # compare with benchmarks/triton_budget.json
    python -m benchmarks.triton_static --write-budget   # after a change of kernels that is meant

Prints registers, spills and shared memory as the binaries say them, and an account of their instructions. Fails where a
kernel spills, needs more shared memory than there is, lost its tensor cores, or goes over its budget.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import triton

from benchmarks import triton_budget
from benchmarks.triton_static.budget import Variant
from benchmarks.triton_static.compiling import TARGETS, Reading, describe, read, specialize
from benchmarks.triton_static.summary import summary
from made_fast.backends.triton.launch import Launch

BUDGET = Path(__file__).with_name("triton_budget.json")
WORKERS = 2


def distinct(calls: Iterable[Sequence[Launch]]) -> dict[Variant, Launch]:
    """The variants that calls of the backend launch, each with a launch of it.

    Args:
        calls: for each call of a function of the backend, what it launches.
    """
    found: dict[tuple[str, str, str], Launch] = {}
    sources, launches = {}, {}
    for call in calls:
        for launch in call:
            source = specialize(launch, "sm_90")
            key = describe(source, launch)
            if sources.setdefault(key, source) != source:
                raise ValueError(f"two specialisations must not have one name, got {source} and {sources[key]}")
            found.setdefault(key, launch)
        for kernel, count in Counter(launch.kernel for launch in call).items():
            name = kernel.fn.__name__
            launches[name] = max(launches.get(name, 0), count)
    return {Variant(*key, launches[key[0]]): launch for key, launch in found.items()}


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


def judge(readings: triton_budget.Readings, budget: Path | None) -> tuple[list[str], str]:
    """What is wrong, and what the readings were held against."""
    failures = triton_budget.broken_limits(readings)
    if budget is None:
        return failures, "budget not compared"
    version, allowed = triton_budget.load(budget)
    if version != triton.__version__:
        return failures, f"budget not compared: it is for triton {version}, this is {triton.__version__}"
    return failures + triton_budget.over_budget(readings, allowed), "within budget"


def main(arguments: Sequence[str] | None = None, calls: Iterable[Sequence[Launch]] | None = None) -> int:
    """The command; ``calls`` stands in for what the backend launches."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton_static", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--budget", type=Path, default=BUDGET, help="default: benchmarks/triton_budget.json")
    parser.add_argument("--no-budget", action="store_true", help="only spills and what no budget could allow decide")
    parser.add_argument("--write-budget", action="store_true", help="writes the budget that this run just keeps")
    parser.add_argument("--json", type=Path, help="writes everything that was read to this file")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET must be unset: interpreted kernels cannot be compiled")
    if options.write_budget and list(options.targets) != list(TARGETS):
        parser.error(f"--write-budget must be used with all targets ({' '.join(TARGETS)})")
    start = time.perf_counter()
    if calls is None:
        from benchmarks.triton_static.calls import recorded_calls

        calls = recorded_calls()
    shown = "sm_90" if "sm_90" in options.targets else options.targets[-1]
    readings = compile_all(distinct(calls), options.targets, shown)
    print(f"Registers / spills (AMD: scalar spills) / shared KiB, triton {triton.__version__}\n")
    print(triton_budget.resources(readings, options.targets))
    print(f"\nBy kernel, instructions on {shown}\n\n{triton_budget.account(readings, options.targets, shown)}")
    print(f"\nIn short\n\n{summary(readings, options.targets, shown)}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            variant.name: {target: asdict(reading) for target, reading in row.items()}
            for variant, row in readings.items()
        }
        options.json.write_text(json.dumps({"triton": triton.__version__, "variants": content}, indent=1))
    if options.write_budget:
        triton_budget.write(options.budget, triton.__version__, triton_budget.budget_of(readings))
    failures, compared = judge(readings, None if options.no_budget else options.budget)
    took = f"{time.perf_counter() - start:.0f} s"
    counted = f"{len(readings)} variants x {len(options.targets)} targets"
    print("", *failures, sep="\n")
    print(f"{counted}: {len(failures)} failures, {took}" if failures else f"{counted}: no spill, {compared}, {took}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
