"""Samples of every kind of output beside one dense forward: ``python -m benchmarks.outputs``.

Contenders take turns in one process and are checked before they are timed; see README.md in this folder for the method.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import output_contenders as contenders
from benchmarks.output_cases import CASES, QUICK_CASES, OutputCase
from benchmarks.report import table
from benchmarks.timing import ForeignLoad, fma_peak, machine, measure, ratio
from made_fast import MADE, Sampler, build_config
from made_fast.testing import unexplained_differences

MUST = 0.8  # of the quicker dense forward, at many rows
SAMPLE, LINEAR, BAG, PASS = "sample", "dense, linear", "dense, embedding_bag", "masked pass"
ONE_ROW_COLUMNS = (
    "output",
    "threads",
    "backend",
    "sample, ms",
    f"sample / {LINEAR}",
    f"sample / {BAG}",
    "foreign load",
)
COLUMNS = (
    *("output", "K", "threads", "backend", "sample, ms", "us a row", f"sample / {LINEAR}", f"sample / {BAG}"),
    *("sample / quicker dense", "naive / sample", "share of FMA peak", "foreign load"),
)


def check(model: MADE, frozen: Sampler, runs: dict[str, contenders.Run], x: torch.Tensor, name: str) -> None:
    """Refuses to time what is wrong: draws that contradict the model, forwards that are not the model's.

    Args:
        model: the network.
        frozen: its sampler.
        runs: what is to be timed, for the rows ``x``.
        x: (B, D), drawn beforehand.
        name: of the case, for the message.
    """
    rows = frozen.sample(x.shape[0], seed=contenders.SEED)
    if not torch.equal(rows, runs[SAMPLE]()):
        raise SystemExit(f"{name}: two draws with one seed differ; nothing is timed")
    few = rows[: max(1, min(len(rows), 2_000_000 // model.parameters_layer.out_features))]
    wrong = int(unexplained_differences(model, few, seed=contenders.SEED, tolerance=3e-5).sum())
    if wrong:
        raise SystemExit(f"{name}: {wrong} of {few.numel()} draws contradict the model; nothing is timed")
    with torch.no_grad():
        expected = model(x[:4])
    for contender in runs.keys() - {SAMPLE}:
        found = runs[contender]()[:4]
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < 1e-4:
            raise SystemExit(f"{name}: {contender} is wrong by {error:.1e}; nothing is timed")


def contenders_of(model: MADE, frozen: Sampler, x: torch.Tensor) -> dict[str, contenders.Run]:
    """All that is timed for rows (B, D), by name."""
    runs = {SAMPLE: contenders.sampler(frozen, len(x)), LINEAR: contenders.dense_linear(frozen, x)}
    bag = contenders.dense_bag(frozen, x)
    if bag is not None:
        runs[BAG] = bag
    runs[PASS] = contenders.masked_pass(model, frozen, x)
    return runs


def measure_case(case: OutputCase, model: MADE, threads: int, seconds: float) -> dict[str, Any]:
    """One row of a table."""
    torch.set_num_threads(threads)
    frozen = model.sampler()
    x = frozen.sample(case.rows, seed=contenders.SEED + 1)
    runs = contenders_of(model, frozen, x)
    check(model, frozen, runs, x, case.name)
    with ForeignLoad() as load:
        times = measure(runs, seconds=seconds)
    median = {name: statistics.median(found) for name, found in times.items()}
    useful = contenders.useful_macs(model)
    quicker = min((name for name in runs if name in (LINEAR, BAG)), key=median.__getitem__)
    row: dict[str, Any] = {
        "case": case.name,
        "output": case.label,
        "K": max(model.params_per_variable),
        "threads": threads,
        "backend": frozen._choose("auto").name,
        "rows": case.rows,
        "sample, ms": 1e3 * median[SAMPLE],
        "us a row": 1e6 * median[SAMPLE] / case.rows,
        f"sample / {LINEAR}": ratio(times, SAMPLE, LINEAR),
        f"sample / {BAG}": ratio(times, SAMPLE, BAG) if BAG in times else "",
        "quicker dense": quicker,
        "sample / quicker dense": ratio(times, SAMPLE, quicker),
        "naive / sample": ratio(times, PASS, SAMPLE, scale=model.features),
        "ms": {name: 1e3 * found for name, found in median.items()},
        "multiply-adds of a row": useful,
        "rounds": len(times[SAMPLE]),
        "foreign load": load.share,
        "share of FMA peak": float("nan"),
    }
    if build_config()["compiled"]:
        peak = fma_peak(str(build_config()["instruction_set"]), threads)
        row["share of FMA peak"] = useful * case.rows / median[SAMPLE] / peak
    return row


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All tables as data."""
    before = torch.get_num_threads()
    result: dict[str, Any] = {"machine": machine(), "many rows": [], "one row": []}
    for case in QUICK_CASES if arguments.quick else CASES:
        if arguments.only and not any(word in case.label for word in arguments.only):
            continue
        model = case.model()
        for threads in arguments.threads or [before]:
            for rows, name in ((case.rows, "many rows"), (1, "one row")):
                print(f"{case.name}, {rows} rows, {threads} threads ...", file=sys.stderr, flush=True)
                own = OutputCase(case.label, case.output, case.features, case.hidden, rows)
                result[name].append(measure_case(own, model, threads, arguments.seconds))
        del model  # the largest holds gigabytes
    torch.set_num_threads(before)
    return result


def markdown(result: dict[str, Any]) -> str:
    """Both tables, and what missed the aim."""
    facts = result["machine"]
    missed = [row for row in result["many rows"] if row["sample / quicker dense"].median > MUST]
    lines = [
        f"Measured on {facts['processor']}, torch {facts['torch']}, {facts['date']}. Ratios: median of paired rounds "
        "[quartiles]. K is the largest number of parameters of a variable; naive is D passes of `F.linear(x, W * mask)`, "
        "one of which is timed in each round, without the draws.",
        "## Many rows\n\n" + table(COLUMNS, result["many rows"]),
        "## One row\n\n" + table(ONE_ROW_COLUMNS, result["one row"]),
        f"At most {MUST} of the quicker dense forward at many rows: "
        + ("all." if not missed else "missed by " + "; ".join(f"{row['case']} on {row['threads']}" for row in missed)),
    ]
    return "\n\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Runs the comparison and prints its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outputs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row of a table (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", help="one table row for each (default: torch's number)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases whose output has one of these words")
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    arguments = parser.parse_args(argv)
    result = run(arguments)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, default=vars, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
