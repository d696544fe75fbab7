"""Other libraries that sample normals, mixtures and categories.

Each in the environment that the suite ``peers`` makes for it, ours before and after it. All draw from two masked hidden
layers of H units with fresh weights. zuko has no mixture and no categories, nflows no categories; the mixture of sbi is that
of nflows.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.peers import run as peers
from benchmarks.peers import table
from benchmarks.peers._protocol import Call
from benchmarks.report import machine, measured_on, write
from benchmarks.report import table as markdown_table

TEXT = "outputs of other libraries beside ours, each in an environment of its own"
QUICK = peers.QUICK
COLUMNS = (
    *("D", "H", "B", "peer", "versions", "draws", "peer, us a row", "ours before / after, us a row", "peer / ours"),
    *("call", "also differs"),
)


class Pair(NamedTuple):
    """A peer's call and ours: whose environment, which peer file, which call of it, which of ``peers.ours_outputs``."""

    environment: str
    module: str
    call: str
    ours: str


PAIRS = (
    Pair("zuko", "zuko", "maf", "normal"),
    Pair("nflows", "nflows", "maf", "normal"),
    Pair("nflows", "nflows_outputs", "mixture", "mixture_of_normals"),
    Pair("sbi", "sbi_outputs", "categorical", "categorical"),
)


def call_of(module: str, name: str) -> Call:
    """One call of a peer file."""
    calls: Sequence[Call] = importlib.import_module(f"benchmarks.peers.{module}").CALLS
    return next(call for call in calls if call.name == name)


def measure_pair(pair: Pair, case: tuple[int, int, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours, the peer, ours again, each in a process of its own."""
    python, why = peers.interpreter(pair.environment, arguments)
    peer, ours = call_of(pair.module, pair.call), call_of("ours_outputs", pair.ours)
    options: dict[str, Any] = {"seconds": arguments.seconds, "limit": arguments.limit, "hidden": (case[1], case[1])}
    row: dict[str, Any] = {"D": case[0], "H": case[1], "B": case[2], "peer": f"{pair.environment} {pair.call}"}
    text = peer.text.replace("[H]", "[H, H]")  # zuko's call says one layer, and takes any
    row |= {"draws": peer.draws, "call": f"`{text}`", "also differs": peer.note}
    if python is None:
        return row | {"error": why}
    before = peers.measure(arguments.python, "ours_outputs", ours, case, **options)
    theirs = peers.measure(python, pair.module, peer, case, **options)
    after = peers.measure(arguments.python, "ours_outputs", ours, case, **options)
    for result in (before, theirs, after):
        if "error" in result:
            return row | {"error": result["error"]}
    medians = {
        "median_ms": theirs["median_ms"],
        "ours_before_ms": before["median_ms"],
        "ours_after_ms": after["median_ms"],
    }
    return row | medians | {"versions": theirs["versions"], "ours": after["versions"], "threads": theirs["threads"]}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    shown = []
    for row in rows:
        factor = table.ratio(row)
        micro = {name: None if row.get(name) is None else 1e3 * row[name] / row["B"] for name in
                 ("median_ms", "ours_before_ms", "ours_after_ms")}  # fmt: skip
        shown.append(
            row
            | {
                "versions": ", ".join(row.get("versions", ())) or "–",
                "peer, us a row": row.get("error") or table.number(micro["median_ms"]),
                "ours before / after, us a row": " / ".join(
                    table.number(micro[name]) for name in ("ours_before_ms", "ours_after_ms")
                ),
                "peer / ours": f"{table.number(factor)}x" if factor else "–",
            }
        )
    backend = next((", ".join(row["ours"]) for row in rows if "ours" in row), "none")
    return f"Ours: {backend}.\n\n" + markdown_table(COLUMNS, shown)


def add_options(parser: argparse.ArgumentParser) -> None:
    peers.add_options(parser)
    parser.set_defaults(only=[pair.environment for pair in PAIRS], limit=300.0)


def run(arguments: argparse.Namespace) -> None:
    """Writes ``output_peers.md`` and ``output_peers.json``."""
    rows = []
    for case in peers.cases("output peers", arguments):
        for pair in (pair for pair in PAIRS if pair.environment in arguments.only):
            print(f"{pair.environment} {pair.call} D={case[0]} ...", file=sys.stderr, flush=True)
            rows.append(measure_pair(pair, case, arguments))
    facts = machine()
    write("output_peers", arguments.out, f"{measured_on(facts)} {markdown(rows)}", {"machine": facts, "rows": rows})
