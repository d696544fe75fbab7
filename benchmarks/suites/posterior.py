"""Samples of an sbi posterior before and after ``accelerate_flow``.

Needs sbi in the environment (``pip install -c constraints.txt sbi``). Trains a masked autoregressive flow on a toy simulator
(a linear one with noise), draws from its posterior with the library's own code and with the accelerated one in turns, and
compares the two: draw for draw from the same seed, and each variable by a Kolmogorov-Smirnov test from different seeds.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, write
from benchmarks.timing import measure, medians, ratio
from made_fast.flows.adapters import accelerate_flow, inverters

TEXT = "samples of an sbi posterior before and after accelerate; needs sbi"
QUICK = {"features": 3, "rows": 50, "simulations": 200, "epochs": 1, "seconds": 0.01}


def trained(features: int, model: str, simulations: int, epochs: int) -> tuple[Any, Tensor]:
    """A posterior of sbi, and an observation."""
    try:
        from sbi.inference import NPE
    except ModuleNotFoundError as error:
        raise SystemExit(f"posterior needs sbi (pip install -c constraints.txt sbi): {error}") from error

    prior = torch.distributions.MultivariateNormal(torch.zeros(features), torch.eye(features))
    theta = prior.sample((simulations,))
    x = theta @ (torch.eye(features) + 0.3 * torch.ones(features, features).tril(-1)).T
    x = x + 0.3 * torch.randn(simulations, features)
    inference = NPE(prior=prior, density_estimator=model, show_progress_bars=False)
    estimator = inference.append_simulations(theta, x).train(max_num_epochs=epochs)
    return inference.build_posterior(estimator.eval()), x[:1]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=int, default=20, metavar="D")
    parser.add_argument("--model", choices=["maf", "zuko_maf", "zuko_nsf"], default="maf")
    parser.add_argument("--rows", type=int, default=1000, metavar="B")
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)


def compared(faster: Any, posterior: Any, observed: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both posteriors in numbers, draw for draw, by their laws and by their times."""
    from scipy.stats import ks_2samp

    def draw(which: Any, seed: int) -> Tensor:
        torch.manual_seed(seed)
        drawn: Tensor = which.sample((arguments.rows,), x=observed, show_progress_bars=False)
        return drawn

    difference = float((draw(faster, 1) - draw(posterior, 1)).abs().max())
    if not difference < 1e-3:
        raise WrongResult(f"posterior samples differ by {difference:.1e}")
    pairs = zip(draw(faster, 2).T.numpy(), draw(posterior, 3).T.numpy(), strict=True)
    least = min(float(ks_2samp(a, b).pvalue) for a, b in pairs)
    runs = {"before": lambda: draw(posterior, 4), "after": lambda: draw(faster, 4)}
    times = measure(runs, seconds=arguments.seconds)
    rates = ", ".join(f"{arguments.rows / taken:.0f} {name}" for name, taken in medians(times).items())
    return {
        "largest difference from the same seed": f"{difference:.1e}",
        f"least p-value of {arguments.features} Kolmogorov-Smirnov tests": f"{least:.3f}",
        "samples a second": rates,
        "time before / after": ratio(times, "before", "after"),
    }


def run(arguments: argparse.Namespace) -> None:
    """Trains, compares, times; writes ``posterior.md`` and ``posterior.json``."""
    warnings.filterwarnings("ignore", module="sbi|nflows|zuko|pyro")
    torch.manual_seed(0)
    posterior, observed = trained(arguments.features, arguments.model, arguments.simulations, arguments.epochs)
    faster = object.__new__(type(posterior))  # copy.copy of a posterior shares its attributes with the original
    faster.__dict__.update(posterior.__dict__)
    faster.posterior_estimator = accelerate_flow(posterior.posterior_estimator)
    if inverters(posterior.posterior_estimator):
        raise WrongResult("the posterior to compare with must be the library's own, but it is accelerated too")
    maps = inverters(faster.posterior_estimator)
    facts, figures = machine(), {"transforms": f"{len(maps)}, {maps[0].how}"}
    figures |= compared(faster, posterior, observed, arguments)
    lines = [f"- {name}: {value}" for name, value in figures.items()]
    write("posterior", arguments.out, "\n".join([measured_on(facts), "", *lines]), {"machine": facts, **figures})
