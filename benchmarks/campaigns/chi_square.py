"""Whether draws follow their distributions: each output on each backend, and the uniforms of the compiled noise.

A variable of a row is led through the exact cdf of its conditional given the row's own prefix, in fp64; of a finite one a
place within the step of the cdf is drawn by numpy. What comes out is uniform and independent if the draws are right: it is
counted in equal cells, one by one and in pairs of neighbouring variables and rows.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.campaigns import uniforms
from benchmarks.campaigns.cells import Tested, chi_square, row_of
from benchmarks.campaigns.ways import Way, all_ways
from benchmarks.report import machine, measured_on, table, write
from made_fast import MADE, backends, build_config
from made_fast.outputs import Categorical, Mixed, MixtureOfLogistics, MixtureOfNormals, Normal
from made_fast.outputs.output import Output
from made_fast.programs.schedule import build_schedule
from made_fast.requests.piece import Piece

TEXT = "chi-square of every output on every backend, and of a billion uniforms of the engine"
FALSE_ALARM = 1e-3  # how often a right package fails the whole command, over all seeds; the seed is fixed
QUICK = {"rows": 3000, "uniforms": 1_000_000, "only": ["cpp", "reference"]}
FEATURES = 6
CELLS, SIDE = 100, 12
COLUMNS = ("what", "numbers", "tests", "least p-value", "wrong")

OUTPUTS: dict[str, Output | str] = {
    "bernoulli": "bernoulli",
    "spin": "spin",
    "categorical": Categorical(5),
    "categorical, looked up": Categorical(40),
    "categorical, embedded": Categorical(7, embedding=2),
    "normal": Normal(floor=0.1),
    "mixture_of_normals": MixtureOfNormals(3, floor=0.1),
    "mixture_of_logistics": MixtureOfLogistics(3, levels=32, floor=0.05),
    "mixed": Mixed(
        [
            "bernoulli",
            Normal(floor=0.1),
            Categorical(9),
            "spin",
            MixtureOfNormals(2, floor=0.1),
            MixtureOfLogistics(2, 16),
        ]
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=int, default=100_000, help="of each output on each backend (default: %(default)s)"
    )
    parser.add_argument("--uniforms", type=int, default=1_000_000_000, help="of the engine (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="BACKEND")
    parser.add_argument("--seed", type=int, default=0)


def model_of(output: Output | str) -> MADE:
    """A model whose variables depend on one another."""
    model = MADE(FEATURES, (24, 16), output=output, order="random", seed=1, direct=True)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def drawn(way: Way, model: MADE, rows: int, seed: int) -> torch.Tensor:
    """Samples (rows, D)."""
    if way.isa is None:
        x: torch.Tensor = model.sample(rows, seed=seed, backend=way.backend)
        return x
    module: Any = backends.load(next(row for row in backends.BACKENDS if row.name == way.backend))
    program = model.program()
    x = torch.full((rows, model.features), torch.nan)
    piece = Piece(seed=seed)
    module.draw(module.pack(program, build_schedule(program)), x, piece, isa=way.isa)
    return x


@torch.no_grad()
def places(model: MADE, x: torch.Tensor, seed: int) -> NDArray[np.float64]:
    """What the exact cdf makes of samples (B, D): (B, D) in the order of drawing, uniform if they are right."""
    exact = model.double()
    rng = np.random.default_rng(seed)
    found = np.empty(x.shape)
    for start in range(0, len(x), 20_000):
        rows = x[start : start + 20_000].double()
        params = exact(rows).split(model.params_per_variable, -1)
        for step, variable in enumerate(model.order.tolist()):
            conditional, value = model.conditionals[variable], rows[:, variable]
            if conditional.size:
                values = conditional.values()
                assert values is not None
                own = params[variable][:, None]
                log_probs = conditional.log_prob(own, values.expand(len(rows), -1))
                below = torch.cat([torch.zeros(len(rows), 1).double(), log_probs.exp().cumsum(-1)], 1)
                number = (values == value[:, None]).long().argmax(-1, keepdim=True)
                low, high = below.gather(1, number)[:, 0], below.gather(1, number + 1)[:, 0]
                place = low + torch.from_numpy(rng.random(len(rows))) * (high - low)
            else:
                place = conditional.cdf(params[variable], value)
            found[start : start + 20_000, step] = place.numpy()
    return found


def tests_of(found: NDArray[np.float64]) -> list[Tested]:
    """Cells of each variable, and of pairs of neighbours."""
    cells = np.minimum((found * CELLS).astype(np.int64), CELLS - 1)
    squares = np.minimum((found * SIDE).astype(np.int64), SIDE - 1)
    tests = [chi_square(f"step {s}", np.bincount(cells[:, s], minlength=CELLS)) for s in range(found.shape[1])]
    for s in range(found.shape[1] - 1):
        pairs = squares[:, s] * SIDE + squares[:, s + 1]
        tests.append(chi_square(f"steps {s}, {s + 1}", np.bincount(pairs, minlength=SIDE**2)))
    even = len(found) // 2 * 2
    pairs = (squares[:even:2] * SIDE + squares[1:even:2]).ravel()
    return [*tests, chi_square("neighbouring rows", np.bincount(pairs, minlength=SIDE**2))]


def run(arguments: argparse.Namespace) -> int:
    """Writes ``chi_square.md`` and ``chi_square.json``; 1 if a test fails."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results: list[tuple[str, int, list[Tested]]] = []
    ways = [way for way in all_ways(arguments.only) if way.path == "chosen" and (way.backend != "cpp" or way.isa)]
    for way in ways:
        for place, (name, output) in enumerate(OUTPUTS.items()):
            model, seed = model_of(output), arguments.seed + place
            x = drawn(way, model, arguments.rows, seed)
            results.append((f"{way.backend} {way.isa or ''} {name}", x.numel(), tests_of(places(model, x, seed))))
    differ = 0
    if build_config()["compiled"]:
        collected, differ = uniforms.collect(arguments.uniforms)
        results.append(("uniforms of the compiled noise", collected.total, collected.tests()))
    torch.set_num_threads(threads)
    count = sum(len(tests) for _, _, tests in results)
    level = FALSE_ALARM / count
    rows = [row_of(what, numbers, tests, level) for what, numbers, tests in results]
    command = f"chi_square --seed {arguments.seed} --rows {arguments.rows} --uniforms {arguments.uniforms}"
    facts, wrong = machine(), sum(row["wrong"] for row in rows) + differ
    text = "\n\n".join(
        [
            "# Chi-square",
            f"`python -m benchmarks {command}`. {measured_on(facts)} {count} tests, each by both "
            f"tails at {level:.1e}: a right package fails in {FALSE_ALARM:g} of all seeds. Of samples: {CELLS} cells "
            f"of each variable, {SIDE} x {SIDE} of neighbouring variables and rows. Of uniforms: each of 24 bits, 4,096 "
            "cells of the upper and of the lower bits, 64 x 64 of neighbouring steps, rows, seeds and of the lowest bits.",
            table(COLUMNS, rows),
            f"{differ} uniforms differ from the definition in torch. {wrong or 'Nothing'} was wrong.",
        ]
    )
    write("chi_square", arguments.out, text, {"machine": facts, "rows": rows, "differ": differ})
    return int(wrong > 0)
