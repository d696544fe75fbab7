"""The paired runner: ``python -m benchmarks.paired``.

Every contender is checked, then all take turns in one process; the tables hold medians of ratios within a round and their
quartiles. See README.md in this folder for the method.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases, contenders, report
from benchmarks.cases import Case
from benchmarks.suites.commits import compare_commits
from benchmarks.timing import ForeignLoad, fma_peak, machine, measure, ratio
from made_fast import MADE, _core
from made_fast.testing import naive_sample, unexplained_differences


def check(model: MADE, case: Case, runs: dict[str, contenders.Run], exact: tuple[str, ...]) -> None:
    """Refuses to time a sampler whose draws contradict the model."""
    for name in exact:
        wrong = int(unexplained_differences(model, runs[name](), seed=contenders.SEED).sum())
        if wrong:
            raise SystemExit(f"{case.name}: {name} drew {wrong} values that contradict the model; nothing is timed")


def measure_case(case: Case, isa: str, seconds: float) -> dict[str, Any]:
    """One row of the main table."""
    model = case.model()
    frozen = model.sampler()
    _, packed = frozen._ready("cpp")
    runs: dict[str, contenders.Run] = {
        "sample": contenders.engine(model, case.rows, isa=isa),
        "dense": contenders.dense(model, case.rows),
        "onednn": contenders.dense_onednn(model, case.rows),
        "masked pass": contenders.masked_pass(model, case.rows),
        "own forward": contenders.own_forward(model, case.rows),
    }
    check(model, case, runs, ("sample",))
    with ForeignLoad() as load:
        times = measure(runs, seconds=seconds)
        peak = fma_peak(isa, torch.get_num_threads())
    useful = frozen.macs * case.rows
    threads = torch.get_num_threads()
    return {
        "case": case.name,
        "isa": isa,
        "sample_ms": 1e3 * sorted(times["sample"])[len(times["sample"]) // 2],
        "sample / dense": ratio(times, "sample", "dense"),
        "sample / oneDNN": ratio(times, "sample", "onednn"),
        "sample / own forward": ratio(times, "sample", "own forward"),
        "naive / sample, in D": ratio(times, "masked pass", "sample"),
        "share of FMA peak": useful / sorted(times["sample"])[len(times["sample"]) // 2] / peak,
        "peak_gflops": 2e-9 * peak,
        "scratch_mb": packed.native.scratch_bytes(isa, case.rows, threads) / 2**20,
        "rounds": len(times["sample"]),
        "foreign load": load.share,
    }


def measure_threads(case: Case, isa: str, seconds: float) -> dict[str, Any]:
    """One thread against all."""
    model, threads = case.model(), torch.get_num_threads()
    run = contenders.engine(model, case.rows, isa=isa)

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
    runs: dict[str, contenders.Run] = {
        "fp32": contenders.sampler(model, case.rows, "cpp"),
        "bf16": lambda: narrow.sample(case.rows, seed=contenders.SEED),
        "dense": contenders.dense(model, case.rows),
    }
    times = measure(runs, seconds=seconds)
    x, log_prob = narrow.sample_and_log_prob(4000, seed=contenders.SEED)
    with torch.no_grad():
        error = log_prob - model.log_prob(x)  # its mean is the Kullback-Leibler divergence from the model
    return {
        "case": case.name,
        "bf16 / fp32": ratio(times, "bf16", "fp32"),
        "bf16 / dense": ratio(times, "bf16", "dense"),
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
        runs: dict[str, contenders.Run] = {
            "made_fast": contenders.sampler(model, case.rows, "cpp"),
            "dense forward": contenders.dense(model, case.rows),
            "oneDNN forward": contenders.dense_onednn(model, case.rows),
            "one masked pass": contenders.masked_pass(model, case.rows),
        }
        check(model, case, runs, ("made_fast",))
        times = measure(runs, seconds=seconds)
        medians = {name: sorted(found)[len(found) // 2] for name, found in times.items()}
        rows.append(
            {
                "case": case.name,
                "features": case.features,
                "rows": case.rows,
                "sample / dense": ratio(times, "made_fast", "dense forward"),
                "sample / oneDNN": ratio(times, "made_fast", "oneDNN forward"),
                "seconds": {**medians, "naive (D masked passes)": case.features * medians["one masked pass"]},
            }
        )
    return rows


def measure_samplers(case: Case, seconds: float) -> dict[str, Any]:
    """Whole samplers against each other, the naive one in full."""
    model = case.model()
    runs: dict[str, contenders.Run] = {
        "made_fast cpp": contenders.sampler(model, case.rows, "cpp"),
        "made_fast numba": contenders.sampler(model, case.rows, "numba"),
        "made_fast reference": contenders.sampler(model, case.rows, "reference"),
        "Jacobi iteration": contenders.jacobi(model, case.rows),
        "naive, masks folded": contenders.naive_folded(model, case.rows),
        "naive": contenders.naive(model, case.rows),
    }
    check(model, case, runs, tuple(runs))
    times = measure(runs, seconds=seconds, min_rounds=3)
    return {
        "case": case.name,
        "jacobi_passes": contenders.jacobi_passes(model, case.rows),
        "ratios": {name: ratio(times, name, "made_fast cpp") for name in runs},
        "ms": {name: 1e3 * sorted(found)[len(found) // 2] for name, found in times.items()},
    }


def measure_trained(path: Path, rows: int, seconds: float) -> dict[str, Any]:
    """A trained model: its weights decide how many iterations Jacobi takes, and how many zeros one row can skip."""
    model = MADE.load(path).eval()
    frozen = model.sampler()
    one, ours = frozen.sample(rows, seed=contenders.SEED), "made_fast cpp"
    forward = contenders.dense_network(model)
    runs: dict[str, contenders.Run] = {
        ours: contenders.sampler(model, rows, "cpp"),
        "made_fast numba": contenders.sampler(model, rows, "numba"),
        "one dense forward": lambda: contenders.without_grad(forward, one),
        "Jacobi iteration": contenders.jacobi(model, rows),
        "naive": lambda: naive_sample(model, rows, seed=contenders.SEED),
    }
    case = Case(model.features, model.hidden_features[0], len(model.hidden_features), rows)
    exact = tuple(name for name in runs if "dense" not in name)
    check(model, case, runs, exact)
    times = measure(runs, seconds=seconds, min_rounds=3)
    single = {
        "sample": lambda: frozen.sample(1, seed=contenders.SEED),
        "dense": lambda: contenders.without_grad(forward, one[:1]),
    }
    return {
        "case": f"{path.name}, {rows} rows",
        "jacobi_passes": contenders.jacobi_passes(model, rows),
        "rows that differ from naive": int((runs["naive"]() != one).any(1).sum()),
        "one row / dense forward of it": ratio(measure(single, seconds=seconds), "sample", "dense"),
        "ratios": {name: ratio(times, name, ours) for name in runs},
        "ms": {name: 1e3 * sorted(found)[len(found) // 2] for name, found in times.items()},
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All tables as data."""
    seconds, isas = arguments.seconds, arguments.isa or _core.instruction_sets()
    shapes = cases.CASES[:4] if arguments.quick else cases.CASES
    result: dict[str, Any] = {"machine": machine(), "main": [], "one row": [], "threads": []}
    for isa in isas:
        for case in shapes:
            result["main"].append(_said(measure_case(case, isa, seconds)))
        for case in cases.ONE_ROW[: len(shapes)]:
            result["one row"].append(_said(measure_case(case, isa, seconds)))
    for case in shapes:
        result["threads"].append(_said(measure_threads(case, isas[0], seconds)))
    result["bf16"] = [measure_bf16(case, seconds) for case in shapes if _core.has_bf16()]
    result["batches"] = measure_batches(cases.BATCH_SWEEP[: 4 if arguments.quick else None], seconds)
    result["features"] = measure_batches(cases.FEATURE_SWEEP[: 3 if arguments.quick else None], seconds)
    result["samplers"] = [measure_samplers(Case(64, 512, 2, 100), seconds)]
    if arguments.model:
        result["samplers"].append(measure_trained(arguments.model, 1000, seconds))
    if not arguments.quick:
        result["samplers"].append(measure_samplers(Case(784, 512, 2, 100), seconds))
    return result


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(" ".join(str(row[key]) for key in ("case", "isa")), "...", file=sys.stderr, flush=True)
    return row


def main(argv: list[str] | None = None) -> None:
    """Runs the comparison and writes ``paired.md``, ``paired.json`` and ``paired.png``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case (default: %(default)s)")
    parser.add_argument("--isa", action="append", help="an instruction set, may be repeated (default: all)")
    parser.add_argument("--quick", action="store_true", help="small shapes only, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a trained model to compare the samplers on as well")
    parser.add_argument("--base", metavar="REF", help="compare with this commit instead")
    arguments = parser.parse_args(argv)
    if arguments.base:
        compare_commits(arguments.base, arguments.seconds)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    report.write(run(arguments), arguments.out)


if __name__ == "__main__":
    main()
