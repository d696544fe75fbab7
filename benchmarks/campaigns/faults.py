"""What goes wrong around the package: kills, signals, full disks, no permission, little memory, threads, forks, long use.

Trainings that were killed are resumed, and must give the bytes of an uninterrupted one; files are whole or not there;
commands end with one line and a status. Each counts by what it did: wrong values, lost files, crashes, hangs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.campaigns import commands, inside
from benchmarks.campaigns.commands import Row
from benchmarks.report import machine, measured_on, table, write

TEXT = "kills, signals, full disks, little memory, threads, forks, growth: wrong, lost, crashed, hung"
QUICK = {"kills": 1, "signals": 1, "calls": 60, "trials": 2}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=20, help="of training, and of sampling (default: %(default)s)")
    parser.add_argument("--signals", type=int, default=6, help="of each kind in each command (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, default=10_000, help="of sample while memory is watched (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, default=12, help="of the others (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="as rows_of in this file names them")


def rows_of(arguments: argparse.Namespace) -> Iterator[Row]:
    """One fault after the other."""
    calls, trials, few = arguments.calls, arguments.trials, 2 + arguments.calls // 100
    within = {
        "threads_while_training": ("8 threads on one sampler while one trains", trials),
        "samples": ("draws, memory watched", calls),
        "trainings": ("trainings, memory watched", few),
        "captures": ("captures, memory watched", few),
        "forks": ("processes by fork after draws", trials),
        "spawns": ("processes by spawn", trials),
        "by_joblib": ("joblib, processes and threads", trials),
        "little_memory": ("little memory (RLIMIT_AS)", trials),
    }
    for name, (fault, count) in within.items():
        if wanted(arguments, name):
            yield inside.tried(name, fault, count, patience=600)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        bench = commands.Bench(Path(folder), random.Random(arguments.seed), quick=arguments.quick)
        for name, rows in {
            "one_processor": lambda: commands.on_one_processor(bench),
            "without_disk": lambda: commands.without_disk(bench),
            "without_permission": lambda: commands.without_permission(bench),
            "interrupted": lambda: commands.interrupted(bench, arguments.signals),
            "killed": lambda: commands.killed(bench, arguments.kills),
        }.items():
            if wanted(arguments, name):
                yield from rows()


def wanted(arguments: argparse.Namespace, name: str) -> bool:
    return not arguments.only or name in arguments.only


def run(arguments: argparse.Namespace) -> int:
    """Writes ``faults.md`` and ``faults.json``; 1 if anything was wrong, lost, crashed or hung."""
    rows = []
    for row in rows_of(arguments):
        rows.append(row)
        print(f"{row.fault}: {row.trials} trials, {row.bad} bad", file=sys.stderr, flush=True)
    facts, command = machine(), f"faults --seed {arguments.seed} --calls {arguments.calls}"
    notes = [note for row in rows for note in row.notes]
    text = "\n\n".join(
        [
            "# Faults",
            f"`python -m benchmarks {command}`. {measured_on(facts)} Wrong: other bytes or values than "
            "those of an undisturbed run. Lost: what was there before is gone, cannot be gone on from, or parts of files are "
            "left. Crashed: a traceback, or an end by another signal than the one sent. Hung: no end within two minutes. "
            f"Signals come at random moments, but not in the first {commands.STARTED} s, in which Python itself starts; "
            f"memory may grow by {inside.GROWTH:g} MiB after a fifth of as many calls.",
            table(commands.COLUMNS, [vars(row) for row in rows]),
            "Nothing was wrong." if not notes else "## What was wrong\n\n" + "\n".join(f"- {note}" for note in notes),
        ]
    )
    write("faults", arguments.out, text, {"machine": facts, "rows": [vars(row) for row in rows]})
    return int(any(row.bad for row in rows))
