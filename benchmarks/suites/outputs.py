"""Samples of every kind of output beside one dense forward.

Contenders take turns in one process and are checked before they are timed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks import WrongResult, contenders
from benchmarks.cases import Case, cases_of
from benchmarks.contenders import SEED, check_close, check_draws
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import ForeignLoad, measure, medians, ratio, share_of_peak
from made_fast import MADE, Sampler

TEXT = "draws of every kind of output, many rows and one, beside a dense forward"
QUICK = {"seconds": 0.01}
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
    rows = frozen.sample(x.shape[0], seed=SEED)
    if not torch.equal(rows, runs[SAMPLE]()):
        raise WrongResult(f"{name}: two draws with one seed differ")
    few = max(1, 2_000_000 // model.parameters_layer.out_features)
    check_draws(name, model, rows[:few], tolerance=3e-5)
    with torch.no_grad():
        expected = model(x[:4])
    for contender in runs.keys() - {SAMPLE}:
        check_close(f"{name}: {contender}", runs[contender]()[:4], expected)


def contenders_of(model: MADE, frozen: Sampler, x: torch.Tensor) -> dict[str, contenders.Run]:
    """All that is timed for rows (B, D), by name."""
    runs = {SAMPLE: contenders.sampler(frozen, len(x)), LINEAR: contenders.dense_linear(frozen, x)}
    bag = contenders.dense_bag(frozen, x)
    if bag is not None:
        runs[BAG] = bag
    runs[PASS] = contenders.masked_linear(model, frozen, x)
    return runs


def measure_case(case: Case, model: MADE, threads: int, seconds: float) -> dict[str, Any]:
    """One row of a table."""
    torch.set_num_threads(threads)
    frozen = model.sampler()
    x = frozen.sample(case.rows, seed=SEED + 1)
    runs = contenders_of(model, frozen, x)
    check(model, frozen, runs, x, case.name)
    with ForeignLoad() as load:
        times = measure(runs, seconds=seconds)
    taken, useful = medians(times), contenders.useful_macs(model)
    quicker = min((name for name in runs if name in (LINEAR, BAG)), key=taken.__getitem__)
    return {
        "case": case.name,
        "output": case.output,
        "K": max(model.params_per_variable),
        "threads": threads,
        "backend": frozen._choose("auto").name,
        "rows": case.rows,
        "sample, ms": 1e3 * taken[SAMPLE],
        "us a row": 1e6 * taken[SAMPLE] / case.rows,
        f"sample / {LINEAR}": ratio(times, SAMPLE, LINEAR),
        f"sample / {BAG}": ratio(times, SAMPLE, BAG) if BAG in times else "",
        "quicker dense": quicker,
        "sample / quicker dense": ratio(times, SAMPLE, quicker),
        "naive / sample": ratio(times, PASS, SAMPLE, scale=model.features),
        "ms": medians(times, 1e3),
        "multiply-adds of a row": useful,
        "rounds": len(times[SAMPLE]),
        "foreign load": load.share,
        "share of FMA peak": share_of_peak(useful * case.rows, taken[SAMPLE]),
    }


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """All tables as data."""
    before = torch.get_num_threads()
    result: dict[str, Any] = {"machine": machine(), "many rows": [], "one row": []}
    for case in cases_of("outputs", quick=arguments.quick):
        if arguments.only and not any(word in case.output for word in arguments.only):
            continue
        model = case.model()
        for threads in arguments.threads or [before]:
            for rows, name in ((case.rows, "many rows"), (1, "one row")):
                print(f"{case.name}, {rows} rows, {threads} threads ...", file=sys.stderr, flush=True)
                result[name].append(measure_case(case.with_rows(rows), model, threads, arguments.seconds))
        del model  # the largest holds gigabytes
    torch.set_num_threads(before)
    return result


def markdown(result: dict[str, Any]) -> str:
    """Both tables, and what missed the aim."""
    missed = [row for row in result["many rows"] if row["sample / quicker dense"].median > MUST]
    lines = [
        f"{measured_on(result['machine'])} Ratios: median of paired rounds [quartiles]. K is the largest number of "
        "parameters of a variable; naive is D passes of `F.linear(x, W * mask)`, one of which is timed in each round, "
        "without the draws.",
        "## Many rows\n\n" + table(COLUMNS, result["many rows"]),
        "## One row\n\n" + table(ONE_ROW_COLUMNS, result["one row"]),
        f"At most {MUST} of the quicker dense forward at many rows: "
        + ("all." if not missed else "missed by " + "; ".join(f"{row['case']} on {row['threads']}" for row in missed)),
    ]
    return "\n\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row of a table (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", help="one table row for each (default: torch's number)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases whose output has one of these words")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``outputs.md`` and ``outputs.json``."""
    result = measure_all(arguments)
    write("outputs", arguments.out, markdown(result), result)
