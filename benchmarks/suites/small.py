"""Where the time of small draws goes: the engine, what Python does around it, and one dense forward beside them.

Small binary models, and one inverted transform of a small flow, from one row to 10,000, on one thread and by its own clock.
The call and the engine's part of it take turns in one process after the values were checked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import contenders
from benchmarks.cases import cases_of
from benchmarks.contenders import SEED
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import measure, medians, ratio
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.flows.inverse import affine_inverse
from made_fast.outputs.point import Point
from made_fast.requests import Piece
from made_fast.sampling import Sampler

TEXT = "small models and inverses of small flows: engine and Python, one row to many"
QUICK = {"seconds": 0.01, "rows": [3]}
COLUMNS = ("case", "rows", "call, us", "engine, us", "Python, us", "engine per row, us", "call / dense")
FLOWS = ((5, 50), (10, 50), (20, 128))  # D, H of two layers
Contender = Callable[[], Tensor]


def models(rows: int, *, quick: bool) -> Iterator[tuple[str, dict[str, Contender]]]:
    """Binary models: a frozen sampler's call, the engine, a dense forward."""
    for case in cases_of("small", quick=quick):
        model = case.model()
        frozen = model.sampler()
        packed = frozen._ready("cpp")[1]
        x = frozen.sample(rows, seed=SEED)
        contenders.check_draws(case.name, model, x)
        yield (
            case.shape_name,
            {
                "call": contenders.sampler(frozen, rows, "cpp"),
                "engine": contenders.engine(frozen, rows, isa=packed.isa),
                "dense": contenders.one_pass(contenders.dense_network(model), x),
            },
        )


def inverses(rows: int) -> Iterator[tuple[str, dict[str, Contender]]]:
    """One transform of a flow inverted: the call, the engine, a dense forward of its network."""
    for features, hidden in FLOWS:
        torch.manual_seed(0)
        flow = MaskedAutoregressiveFlow(features, 1, (hidden, hidden))
        z = torch.randn(rows, features)
        network = flow.networks[0]
        solver = Sampler(affine_inverse(network.program(), flow.floor), Point())
        module, packed = solver._ready("cpp")
        x, piece = torch.empty(rows, features), Piece(0, context=z)

        def engine(module: Any = module, packed: Any = packed, x: Tensor = x, piece: Piece = piece) -> Tensor:
            module.draw(packed, x, piece)
            return x

        def call(flow: MaskedAutoregressiveFlow = flow, z: Tensor = z) -> Tensor:
            with torch.no_grad():
                return flow.inverse(z)

        contenders.check_close("the inverse", call(), engine())
        with torch.no_grad():
            contenders.check_close("the inverse", flow.noise_of(call())[0], z)
        dense = contenders.one_pass(contenders.dense_network(network), z)
        yield f"inverse {features}x{hidden}x2", {"call": call, "engine": engine, "dense": dense}


def seconds_of_thread(run: Callable[[], object], repeats: int) -> float:
    """Seconds of one call that this thread had a processor: other programs do not count."""
    start = time.thread_time()
    for _ in range(repeats):
        run()
    return (time.thread_time() - start) / repeats


def one_row(name: str, rows: int, runs: dict[str, Contender], seconds: float) -> dict[str, Any]:
    """One row of the table."""
    times = measure(runs, seconds=seconds, once=seconds_of_thread)
    taken = medians(times, 1e6)
    return {
        "case": name,
        "rows": rows,
        "call, us": taken["call"],
        "engine, us": taken["engine"],
        "Python, us": taken["call"] - taken["engine"],
        "engine per row, us": taken["engine"] / rows,
        "call / dense": ratio(times, "call", "dense"),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=1.0, help="for each case (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000], metavar="B")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``small.md`` and ``small.json``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    facts, rows = machine(), []
    try:
        for count in arguments.rows:
            for name, runs in (*models(count, quick=arguments.quick), *inverses(count)):
                rows.append(one_row(name, count, runs, arguments.seconds))
    finally:
        torch.set_num_threads(threads)
    rows.sort(key=lambda row: row["case"])
    text = f"# Small\n\n{measured_on(facts)} One thread. {__doc__.splitlines()[0]}\n\n{table(COLUMNS, rows)}"
    write("small", arguments.out, text, {"machine": facts, "rows": rows})
