"""Training of sbi's neural posterior estimation before and after ``accelerate``: one line, in the function that builds.

Needs sbi in the environment (``pip install -c constraints.txt sbi``). A simulator with as many observations as parameters;
its training and validation losses from the same seed are compared, epoch by epoch, and the seconds until sbi itself stops.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from made_fast import accelerate

TEXT = "training of sbi's NPE before and after accelerate; needs sbi"
QUICK = {"features": 3, "simulations": 200, "epochs": 2, "models": ["maf"]}

TOLERANCE = 1e-3  # of losses in the first epochs, relative above 1; later both runs drift apart by rounding
COMPARED = 5


class Run(NamedTuple):
    """What one training took: losses (epochs,), seconds by the clock and of the processor."""

    losses: Tensor
    seconds: float
    processor: float


def trained(model: str, arguments: argparse.Namespace, *, accelerated: bool) -> Run:
    """One training by sbi, from the same seed whichever."""
    try:
        from sbi.inference import NPE
        from sbi.neural_nets import posterior_nn
    except ModuleNotFoundError as error:
        raise SystemExit(f"npe needs sbi (pip install -c constraints.txt sbi): {error}") from error

    build: Any = posterior_nn(model)
    torch.manual_seed(0)
    prior = torch.distributions.MultivariateNormal(torch.zeros(arguments.features), torch.eye(arguments.features))
    theta = prior.sample((arguments.simulations,))
    mixed = theta @ torch.randn(arguments.features, arguments.features) / arguments.features**0.5
    x = torch.tanh(mixed) + 0.1 * torch.randn_like(theta)
    estimator = (lambda theta, x: accelerate(build(theta, x))) if accelerated else build
    inference = NPE(prior, density_estimator=estimator, show_progress_bars=False)
    start, start_processor = time.perf_counter(), time.process_time()
    inference.append_simulations(theta, x).train(max_num_epochs=arguments.epochs)
    seconds, processor = time.perf_counter() - start, time.process_time() - start_processor
    losses = [inference.summary[name] for name in ("training_loss", "validation_loss")]
    return Run(torch.tensor(losses, dtype=torch.float64), seconds, processor)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=int, default=10, metavar="D")
    parser.add_argument("--models", nargs="*", default=["maf", "zuko_maf"], help="names of density estimators of sbi")
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument(
        "--epochs", type=int, default=1000, help="at most; sbi stops when the validation loss does not fall"
    )
    parser.add_argument("--threads", type=int, default=1)


def one_model(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both trainings in numbers; raises if their losses are not the same."""
    before, after = (trained(model, arguments, accelerated=each) for each in (False, True))
    epochs = min(before.losses.shape[1], after.losses.shape[1])
    pairs = [run.losses[:, :epochs] for run in (after, before)]
    difference = (pairs[0] - pairs[1]).abs() / pairs[1].abs().clamp(min=1)
    first = float(difference[:, :COMPARED].max())
    if not first < TOLERANCE:
        raise WrongResult(f"losses of the first epochs of {model} differ by {first:.1e}")
    return {
        "estimator": model,
        "epochs before, after": f"{before.losses.shape[1]}, {after.losses.shape[1]}",
        "best validation loss before, after": ", ".join(f"{float(run.losses[1].min()):.4f}" for run in (before, after)),
        f"difference, first {COMPARED} epochs": f"{first:.1e}",
        "difference, all epochs": f"{float(difference.max()):.1e}",
        "seconds before, after": f"{before.seconds:.1f}, {after.seconds:.1f}",
        "of the processor": f"{before.processor:.1f}, {after.processor:.1f}",
        "after / before, an epoch": f"{_an_epoch(after) / _an_epoch(before):.2f}",
    }


def _an_epoch(run: Run) -> float:
    """Seconds of the processor, those of accelerating among them."""
    return run.processor / run.losses.shape[1]


def run(arguments: argparse.Namespace) -> None:
    """Trains twice with each estimator, compares, times; writes ``npe.md`` and ``npe.json``."""
    warnings.filterwarnings("ignore", module="sbi|nflows|zuko|pyro")
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    rows = [one_model(model, arguments) for model in arguments.models]
    facts = machine()
    torch.set_num_threads(threads)
    asked = f"{arguments.features} parameters, {arguments.simulations} simulations, batches of 200 as sbi has them"
    said = [f"# NPE\n\n`python -m benchmarks npe`: {asked}. {measured_on(facts)}", table(tuple(rows[0]), rows)]
    write("npe", arguments.out, "\n\n".join(said), {"machine": facts, "rows": rows})
