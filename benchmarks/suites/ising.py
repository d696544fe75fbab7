"""The 2D Ising model by a variational autoregressive network.

Trains one network with rising beta, compares its free energies with the exact ones, then times a training step with the
cached sampler against the same step with the naive one, in turns in one process. About two minutes.

Source: Wu, Wang, Zhang, "Solving Statistical Mechanics Using Variational Autoregressive Networks", PRL 122, 080602 (2019).
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import check_draws
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import ForeignLoad, Ratio, measure, ratio
from made_fast import MADE
from made_fast.estimation import Estimate, free_energy, score_function_loss
from made_fast.testing import naive_sample

TEXT = "free energies and training steps of a variational network on the 2D Ising lattice"
QUICK = {"steps": 60, "batch": 100, "samples": 2000, "size": 3, "timed": [2], "seconds": 0.01}
BETAS = (0.3, 0.4406868, 0.6)  # the second one is critical in the limit of large lattices
LEARNING_RATE = 3e-3
ENUMERATED, TRANSFERRED = 4, 8  # the largest lattices whose free energy each exact method finds in a second or two
SAMPLER_CHECKED = 64  # rows of which every draw is compared with the conditionals before a step is timed
EVALUATION_SEED = 2**40  # far from the seeds of training steps


def energy(x: Tensor, size: int) -> Tensor:
    """Energy (...) of the ferromagnet, J = 1, on the periodic lattice of ``size`` x ``size`` sites, x (..., size**2)."""
    spins = (2 * x - 1).unflatten(-1, (size, size))
    return -(spins * (spins.roll(1, -1) + spins.roll(1, -2))).sum((-1, -2))


def all_spins(count: int) -> Tensor:
    """All states of some spins, (2**n, n) fp64 of -1, 1."""
    return 2.0 * (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).double() - 1


def enumerated_free_energy(size: int, beta: float) -> float:
    """Exact beta F in nats from all 2**(size**2) states."""
    return -float(torch.logsumexp(-beta * energy((all_spins(size**2) + 1) / 2, size), 0))


def transfer_matrix_free_energy(size: int, beta: float) -> float:
    """Exact beta F in nats from the eigenvalues of the symmetric transfer matrix between rows, (2**size, 2**size).

    Source: Kramers and Wannier, "Statistics of the Two-Dimensional Ferromagnet", Physical Review 60 (1941).
    """
    rows = all_spins(size)
    inside = beta * (rows * rows.roll(1, -1)).sum(-1) / 2
    eigenvalues = torch.linalg.eigvalsh((beta * rows @ rows.T + inside[:, None] + inside).exp())  # all are positive
    largest = eigenvalues[-1]
    return -float(size * largest.log() + (eigenvalues.clamp(min=0) / largest).pow(size).sum().log())


def exact_free_energy(size: int, beta: float) -> float:
    """Exact beta F in nats."""
    return (enumerated_free_energy if size <= ENUMERATED else transfer_matrix_free_energy)(size, beta)


class NaiveMADE(MADE):
    """MADE that draws by D passes of the whole network, each through this package's masked layers."""

    def sample(self, num_samples: int, context: Tensor | None = None, **options: Any) -> Tensor:
        return naive_sample(self, num_samples, context=context, seed=options["seed"])


def make_model(size: int, kind: type[MADE] = MADE) -> MADE:
    """A network for a lattice; the same weights each time."""
    torch.manual_seed(0)
    return kind(size**2, (max(64, 2 * size**2),) * 2, direct=True, activation="silu")


def make_optimizer(model: MADE) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)


def train_step(model: MADE, optimizer: torch.optim.Optimizer, *, beta: float, batch: int, seed: int) -> Estimate:
    """One step of variational training; the estimate of beta F before it."""
    size = math.isqrt(model.features)
    step = score_function_loss(model, lambda x: beta * energy(x, size), batch, seed=seed)
    optimizer.zero_grad()
    step.loss.backward()
    optimizer.step()
    return step.free_energy


def anneal(
    model: MADE, optimizer: torch.optim.Optimizer, start: float, stop: float, *, steps: int, batch: int, seed: int
) -> None:
    """Steps from one beta to another, which is reached half way; from there the learning rate falls to zero."""
    for index in range(steps):
        done = (index + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - index / steps))
        beta = start + (stop - start) * min(1.0, 2 * done)
        train_step(model, optimizer, beta=beta, batch=batch, seed=seed + index)


def measure_free_energies(size: int, *, steps: int, batch: int, samples: int, seed: int) -> list[dict[str, Any]]:
    """One network through all of ``BETAS``: estimates and exact figures per site, a row for each."""
    model, rows, last = make_model(size), [], 0.0
    optimizer = make_optimizer(model)
    sites = size**2
    for number, beta in enumerate(BETAS):
        first_seed = (seed * len(BETAS) + number) * steps
        anneal(model, optimizer, last, beta, steps=steps, batch=batch, seed=first_seed)
        last, exact = beta, exact_free_energy(size, beta)
        found = free_energy(
            model, lambda x, beta=beta: beta * energy(x, size), samples, seed=EVALUATION_SEED + first_seed
        )
        (value, error), (corrected, its_error) = ((float(v), float(e)) for v, e in found[:2])
        rows.append(
            {
                "beta": beta,
                "exact": exact / sites,
                "variational": value / sites,
                "variational, standard error": error / sites,
                "corrected": corrected / sites,
                "corrected, standard error": its_error / sites,
                "corrected - exact, in standard errors": (corrected - exact) / its_error,
                "variational gap": (value - exact) / sites,
                "effective samples": 1
                / (1 + samples * its_error**2),  # Kish: 1 / (1 + squared variation of the weights)
            }
        )
    return rows


def _steps(model: MADE, batch: int, seed: int) -> Callable[[], object]:
    """Takes one more training step at each call."""
    optimizer, seeds = make_optimizer(model), itertools.count(seed)
    return lambda: train_step(model, optimizer, beta=BETAS[1], batch=batch, seed=next(seeds))


def measure_step(size: int, *, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    """Seconds of a training step with each sampler on one lattice, in turns."""
    contenders: dict[str, Callable[[], object]] = {}
    models = {"cached": make_model(size), "naive": make_model(size, NaiveMADE)}
    for name, model in models.items():
        check_draws(f"the {name} sampler", model, model.sample(SAMPLER_CHECKED, seed=seed), seed=seed)
        contenders[name] = _steps(model, batch, seed)
    with ForeignLoad() as load:
        times = measure(contenders, seconds=seconds)
    row: dict[str, Any] = {
        "lattice": f"{size} x {size}",
        "hidden": list(models["cached"].hidden_features),
        "batch": batch,
    }
    for name, found in times.items():
        low, median, high = statistics.quantiles(found, n=4)
        row[f"{name}, ms"] = Ratio(1e3 * median, 1e3 * low, 1e3 * high)
    return {**row, "naive / cached": ratio(times, "naive", "cached"), "foreign load": load.share}


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    shown = []
    for row in result["free energies"]:
        figures = {name: f"{row[name]:.6f}" for name in ("exact", "variational", "corrected")}
        for name in ("variational", "corrected"):
            figures[name] += f" ± {row[f'{name}, standard error']:.6f}"
        shown.append(
            {
                "beta": f"{row['beta']:g}",
                **figures,
                "corrected - exact, in standard errors": f"{row['corrected - exact, in standard errors']:+.2f}",
                "variational gap": f"{row['variational gap']:.1e}",
                "effective samples": f"{row['effective samples']:.1%}",
            }
        )
    size = result["size"]
    parts = [
        f"{measured_on(result['machine'])} Seed {result['seed']}.",
        f"### Free energy of {size} x {size}, beta F / N in nats per site\n\n"
        f"{result['steps']} steps of {result['batch']} samples to each beta; estimates from {result['samples']:,} samples.",
        table(tuple(shown[0]), shown),
    ]
    if result["steps timed"]:
        parts += [
            "### A training step, median [quartiles]",
            table(tuple(result["steps timed"][0]), result["steps timed"]),
        ]
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of samples (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of training, to each beta (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1000, help="samples of a step (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=200_000, help="of an estimate (default: %(default)s)")
    parser.add_argument("--size", type=int, default=4, help="of the trained lattice, 2 to 8 (default: %(default)s)")
    parser.add_argument("--timed", type=int, nargs="*", default=[4, 8, 16], help="lattices to time (default: 4 8 16)")
    parser.add_argument("--seconds", type=float, default=15.0, help="for timing each lattice (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``ising.md`` and ``ising.json``; fails if a corrected free energy is more than 3 standard errors off."""
    if not 2 <= arguments.size <= TRANSFERRED:
        raise SystemExit(f"--size must be 2 to {TRANSFERRED}, got {arguments.size}")
    chosen = {name: getattr(arguments, name) for name in ("seed", "size", "steps", "batch", "samples")}
    result: dict[str, Any] = {"machine": machine(), **chosen}
    result["free energies"] = measure_free_energies(**chosen)
    result["steps timed"] = []
    for size in arguments.timed:
        print(f"{size} x {size} ...", file=sys.stderr, flush=True)
        timing = {"batch": arguments.batch, "seconds": arguments.seconds, "seed": arguments.seed}
        result["steps timed"].append(measure_step(size, **timing))
    write("ising", arguments.out, markdown(result), result)
    off = max(abs(row["corrected - exact, in standard errors"]) for row in result["free energies"])
    if off > 3:
        raise SystemExit(f"a corrected free energy is {off:.1f} standard errors off")
