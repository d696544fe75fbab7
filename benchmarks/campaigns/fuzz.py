"""Random models and requests on every backend; the compiled module called at its edges; files with damaged bytes.

Each trial is a function of (seed, number): ``--first N --trials 1`` repeats one that was noted. Draws are compared with the
model's own conditionals given the row's own prefix; only a uniform that lies within the tolerance of its threshold (1e-5, and
in proportion for weights of more than twice the usual size) excuses a difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from benchmarks.campaigns import damaged, edges
from benchmarks.campaigns.judged import Judge, Tally
from benchmarks.campaigns.trials import trial_of
from benchmarks.campaigns.ways import all_ways
from benchmarks.report import machine, measured_on, table, write

TEXT = "random models, requests, calls and files: draws that contradict the model, crashes"
QUICK = {"minutes": 0.2, "trials": 12, "damaged": 60, "edges": 300, "only": ["cpp", "reference"]}
COLUMNS = ("way", "trials", "rows", "draws", "unexplained", "log_probs", "log_weights", "pieces", "raised")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="for draws, at most (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=10**9, help="models, at most")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="BACKEND", help="backends (default: all that run here)")
    parser.add_argument("--damaged", type=int, default=2000, help="damaged copies of each file")
    parser.add_argument("--edges", type=int, default=20_000, help="calls of the compiled module")


def draws(arguments: argparse.Namespace) -> dict[str, Tally]:
    """The tallies of all ways, by name."""
    ways = all_ways(arguments.only)
    tallies = {way.name: Tally() for way in ways}
    end, number = time.monotonic() + 60 * arguments.minutes, arguments.first
    while number < arguments.first + arguments.trials and time.monotonic() < end:
        judge = Judge(trial_of(arguments.seed, number))
        for way in ways:
            judge.judge(way, tallies[way.name])
        number += 1
        if number % 100 == 0:
            wrong = sum(tally.wrong for tally in tallies.values())
            print(f"{number} trials, {wrong} wrong ...", file=sys.stderr, flush=True)
    return tallies


def markdown(facts: dict[str, Any], result: dict[str, Any], command: str) -> str:
    """All tables, and what went wrong."""
    rows = [{"way": name, **vars(tally)} for name, tally in result["draws"].items()]
    total = sum(row["draws"] for row in rows)
    lines = [
        "# Fuzz",
        f"`python -m benchmarks {command}`. {measured_on(facts)} {total:,} draws compared. A draw is one variable of one "
        "row; the columns "
        "behind it must be 0: draws that contradict the model, log-probabilities and log-weights that are not those of the "
        "definition in fp64, calls whose rows differ when cut in two, exceptions.",
        "## Draws\n\n" + table(COLUMNS, rows),
        "## Calls of the compiled module\n\nValid arguments with numbers, shapes or types changed, in a process of its own: "
        "each must raise or work.\n\n" + table(edges.COLUMNS, result["edges"]),
        "## Damaged files\n\nBytes flipped, zeroed, cut or repeated: each file must be read, or be refused by a ValueError "
        "or an OSError, within 1 GiB.\n\n" + table(damaged.COLUMNS, result["damaged"]),
    ]
    notes = _by_trial([(name, note) for name, tally in result["draws"].items() for note in tally.notes])
    notes += [note for name in ("edges", "damaged") for row in result[name] for note in row["notes"]]
    lines.append(
        "Nothing was wrong." if not notes else "## What was wrong\n\n" + "\n".join(f"- {each}" for each in notes)
    )
    return "\n\n".join(lines)


def _by_trial(notes: list[tuple[str, str]]) -> list[str]:
    """What several ways have in common, once."""
    found: dict[str, list[str]] = {}
    for way, note in notes:
        found.setdefault(note.removeprefix(f"{way}: ")[:400], []).append(way)
    return [f"{note} ({'; '.join(ways)})" for note, ways in found.items()]


def run(arguments: argparse.Namespace) -> int:
    """Writes ``fuzz.md`` and ``fuzz.json``; 1 if anything was wrong."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small gain nothing by more
    result = {
        "draws": draws(arguments),
        "edges": edges.tally(arguments.seed, arguments.edges),
        "damaged": damaged.tally(arguments.seed, arguments.damaged),
    }
    facts = machine()
    torch.set_num_threads(threads)
    command = f"fuzz --seed {arguments.seed} --minutes {arguments.minutes:g}"
    write("fuzz", arguments.out, markdown(facts, result, command), {"machine": facts, **result})
    wrong = sum(tally.wrong for tally in result["draws"].values())
    return int(wrong + sum(row["wrong"] for name in ("edges", "damaged") for row in result[name]) > 0)
