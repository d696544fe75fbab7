"""Draws beside dense forwards, the naive sampler and Jacobi iteration, on every instruction set; two threads against one.

Every contender is checked, then all take turns in one process; the tables hold medians of ratios within a round and their
quartiles. ``--base REF`` compares the samplers of the working tree with those of a commit instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import contenders, report
from benchmarks.cases import Case, cases_of
from benchmarks.contenders import SEED, check_draws, one_pass
from benchmarks.suites.commits import compare_commits
from benchmarks.timing import ForeignLoad, fma_peak, measure, median, medians, ratio
from made_fast import MADE, _core
from made_fast.testing import naive_sample

TEXT = "draws beside a dense forward and the naive sampler, on every instruction set; --base REF against a commit"
QUICK = {"seconds": 0.01}
COLUMNS = (
    *("case", "isa", "sample_ms", "sample / dense", "sample / oneDNN", "sample / own forward", "share of FMA peak"),
    *("naive / sample, in D", "scratch_mb", "foreign load"),
)
OURS, DENSE, ONEDNN, PASS = "made_fast", "dense forward", "oneDNN forward", "one masked pass"
NAIVE = "naive (D masked passes)"


def forwards(model: MADE, rows: int) -> dict[str, contenders.Run]:
    """One forward of as many rows: dense, by oneDNN, and one of the D of the naive sampler."""
    x = model.sample(rows, seed=SEED + 1)
    return {
        DENSE: one_pass(contenders.dense_network(model), x),
        ONEDNN: one_pass(contenders.onednn_network(model), x),
        PASS: one_pass(contenders.masked_network(model), x),
        "own forward": one_pass(model, x),
    }


def measure_case(case: Case, isa: str, seconds: float) -> dict[str, Any]:
    """One row of the main table."""
    model = case.model()
    frozen = model.sampler()
    runs = {OURS: contenders.engine(frozen, case.rows, isa=isa), **forwards(model, case.rows)}
    check_draws(case.name, model, runs[OURS]())
    threads, (_, packed) = torch.get_num_threads(), frozen._ready("cpp")
    with ForeignLoad() as load:
        times = measure(runs, seconds=seconds)
        peak = fma_peak(isa, threads)
    taken = median(times[OURS])
    return {
        "case": case.name,
        "isa": isa,
        "sample_ms": 1e3 * taken,
        "sample / dense": ratio(times, OURS, DENSE),
        "sample / oneDNN": ratio(times, OURS, ONEDNN),
        "sample / own forward": ratio(times, OURS, "own forward"),
        "naive / sample, in D": ratio(times, PASS, OURS),
        "share of FMA peak": frozen.macs * case.rows / taken / peak,
        "peak_gflops": 2e-9 * peak,
        "scratch_mb": packed.native.scratch_bytes(isa, case.rows, threads) / 2**20,
        "rounds": len(times[OURS]),
        "foreign load": load.share,
    }


def measure_threads(case: Case, isa: str, seconds: float) -> dict[str, Any]:
    """One thread against all."""
    model, threads = case.model(), torch.get_num_threads()
    run = contenders.engine(model.sampler(), case.rows, isa=isa)

    def on(count: int) -> None:
        torch.set_num_threads(count)
        run()

    times = measure({"one": lambda: on(1), "all": lambda: on(threads)}, seconds=seconds)
    torch.set_num_threads(threads)
    return {"case": case.name, "isa": isa, "threads": threads, "one / all": ratio(times, "one", "all")}


def measure_bf16(case: Case, seconds: float) -> dict[str, Any]:
    """bf16 weights against fp32, and what they cost in exactness."""
    model = case.model()
    narrow = model.sampler(bf16_weights=True)
    runs = {
        "fp32": contenders.sampler(model.sampler(), case.rows, "cpp"),
        "bf16": contenders.sampler(narrow, case.rows),
        DENSE: forwards(model, case.rows)[DENSE],
    }
    times = measure(runs, seconds=seconds)
    x, log_prob = narrow.sample_and_log_prob(4000, seed=SEED)
    with torch.no_grad():
        error = log_prob - model.log_prob(x)  # its mean is the Kullback-Leibler divergence from the model
    return {
        "case": case.name,
        "bf16 / fp32": ratio(times, "bf16", "fp32"),
        "bf16 / dense": ratio(times, "bf16", DENSE),
        "KL in nats": error.mean().item(),
        "standard error": error.std().item() / 4000**0.5,
        "largest error of a log-probability": error.abs().max().item(),
        "nats per row": -log_prob.mean().item(),
    }


def measure_batches(sweep: tuple[Case, ...], seconds: float) -> list[dict[str, Any]]:
    """Absolute times for the plots, and the ratio of a sample to one dense forward."""
    rows = []
    for case in sweep:
        model = case.model()
        runs = {OURS: contenders.sampler(model.sampler(), case.rows, "cpp"), **forwards(model, case.rows)}
        check_draws(case.name, model, runs[OURS]())
        times = measure(runs, seconds=seconds)
        taken = medians(times)
        rows.append(
            {
                "case": case.name,
                "features": case.features,
                "rows": case.rows,
                "sample / dense": ratio(times, OURS, DENSE),
                "sample / oneDNN": ratio(times, OURS, ONEDNN),
                "seconds": {**taken, NAIVE: case.features * taken[PASS]},
            }
        )
    return rows


def ours(model: MADE, rows: int, *backends: str) -> dict[str, contenders.Run]:
    """This package's sampler on some backends."""
    frozen = model.sampler()
    return {f"{OURS} {backend}": contenders.sampler(frozen, rows, backend) for backend in backends}


def measure_samplers(case: Case, seconds: float) -> dict[str, Any]:
    """Whole samplers against each other, the naive one in full."""
    model, rows = case.model(), case.rows
    jacobi = contenders.Jacobi(model, rows)
    runs: dict[str, contenders.Run] = {
        **ours(model, rows, "cpp", "numba", "reference"),
        "Jacobi iteration": jacobi,
        "naive, masks folded": contenders.step_by_step(contenders.dense_network(model), model, rows),
        "naive": contenders.step_by_step(contenders.masked_network(model), model, rows),
    }
    for name, run in runs.items():
        check_draws(f"{case.name}: {name}", model, run())
    return {"case": case.name, "jacobi_passes": jacobi.passes, **_beside_ours(runs, seconds)}


def measure_trained(path: Path, rows: int, seconds: float) -> dict[str, Any]:
    """A trained model: its weights decide how many iterations Jacobi takes, and how many zeros one row can skip."""
    model = MADE.load(path).eval()
    frozen, forward, jacobi = model.sampler(), contenders.dense_network(model), contenders.Jacobi(model, rows)
    x = frozen.sample(rows, seed=SEED)
    runs: dict[str, contenders.Run] = {
        **ours(model, rows, "cpp", "numba"),
        "Jacobi iteration": jacobi,
        "naive": lambda: naive_sample(model, rows, seed=SEED),
    }
    for name, run in runs.items():
        check_draws(f"{path.name}: {name}", model, run())
    single = {"sample": contenders.sampler(frozen, 1), "dense": one_pass(forward, x[:1])}
    return {
        "case": f"{path.name}, {rows} rows",
        "jacobi_passes": jacobi.passes,
        "rows that differ from naive": int((runs["naive"]() != x).any(1).sum()),
        "one row / dense forward of it": ratio(measure(single, seconds=seconds), "sample", "dense"),
        **_beside_ours({**runs, "one dense forward": one_pass(forward, x)}, seconds),
    }


def _beside_ours(runs: dict[str, contenders.Run], seconds: float) -> dict[str, Any]:
    times = measure(runs, seconds=seconds, min_rounds=3)
    return {"ratios": {name: ratio(times, name, f"{OURS} cpp") for name in runs}, "ms": medians(times, 1e3)}


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """All tables as data."""
    seconds, isas, quick = arguments.seconds, arguments.isa or _core.instruction_sets(), arguments.quick
    result: dict[str, Any] = {"machine": report.machine(), "main": [], "one row": [], "threads": []}
    many = cases_of("sampling", quick=quick)
    for isa in isas:
        for case in many:
            result["main"].append(_said(measure_case(case, isa, seconds)))
        for case in cases_of("one row", quick=quick):
            result["one row"].append(_said(measure_case(case, isa, seconds)))
    for case in many:
        result["threads"].append(_said(measure_threads(case, isas[0], seconds)))
    result["bf16"] = [measure_bf16(case, seconds) for case in many if _core.has_bf16()]
    result["batches"] = measure_batches(cases_of("batch sizes", quick=quick), seconds)
    result["features"] = measure_batches(cases_of("variables", quick=quick), seconds)
    result["samplers"] = [measure_samplers(case, seconds) for case in cases_of("whole samplers", quick=quick)]
    if arguments.model:
        result["samplers"].append(measure_trained(arguments.model, 1000, seconds))
    return result


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(" ".join(str(row[key]) for key in ("case", "isa")), "...", file=sys.stderr, flush=True)
    return row


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    peaks = sorted({f"{row['peak_gflops']:.0f}" for row in result["main"]})
    parts = [
        f"{report.measured_on(result['machine'])} FMA peak in the same run: {', '.join(peaks)} GFLOP/s. "
        "Ratios: median of paired rounds [quartiles].",
        "## Many rows\n\n" + report.table(COLUMNS, result["main"]),
        "## One row\n\n" + report.table(COLUMNS[:6], result["one row"]),
        "## All threads against one\n\n" + report.table(("case", "isa", "threads", "one / all"), result["threads"]),
        "## Batch sizes\n\n" + report.table(("case", "sample / dense", "sample / oneDNN"), result["batches"]),
    ]
    if result["bf16"]:
        parts.append("## bf16 weights\n\n" + report.table(tuple(result["bf16"][0]), result["bf16"]))
    for samplers in result["samplers"]:
        rows = [
            {"sampler": name, "ms": taken, "times ours": samplers["ratios"][name]}
            for name, taken in samplers["ms"].items()
        ]
        title = f"## Samplers at {samplers['case']} (Jacobi: {samplers['jacobi_passes']} passes)"
        more = [f"{key}: {value}" for key, value in samplers.items() if key.startswith(("rows that", "one row"))]
        parts.append("\n\n".join([title, *more, report.table(("sampler", "ms", "times ours"), rows)]))
    return "\n\n".join(parts)


def plot(result: dict[str, Any]) -> Any:
    """Time against batch size and against D."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    panels = (("batches", "rows", "rows drawn (D = 784, 2x512)"), ("features", "features", "D (256 rows, 2x512)"))
    for axis, (sweep, key, label) in zip(axes, panels, strict=True):
        rows = result[sweep]
        for name in (NAIVE, DENSE, ONEDNN, OURS):
            style = {"linewidth": 2.5} if name == OURS else {"linestyle": "--"}
            milliseconds = [1e3 * row["seconds"][name] for row in rows]
            axis.loglog([row[key] for row in rows], milliseconds, marker="o", label=name, **style)
        axis.set_xlabel(label)
        axis.set_ylabel("milliseconds")
        axis.grid(visible=True, which="both", alpha=0.25)
    axes[0].legend(frameon=False)
    figure.suptitle(f"Drawing whole samples on {result['machine']['processor']}", fontsize=10)
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case (default: %(default)s)")
    parser.add_argument("--isa", action="append", help="an instruction set, may be repeated (default: all)")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a trained model to compare the samplers on as well")
    parser.add_argument("--base", metavar="REF", help="compare the working tree with this commit instead")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``sampling.md``, ``sampling.json`` and ``sampling.png``."""
    if arguments.base:
        compare_commits(arguments.base, arguments.seconds)
        return
    result = measure_all(arguments)
    report.write_figure(plot(result), arguments.out / "sampling.png", dpi=130)
    report.write("sampling", arguments.out, markdown(result), result)
