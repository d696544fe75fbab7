"""Calibration of sbi's posteriors before and after ``accelerate``: ``sample_batched``, simulation-based calibration, TARP.

Needs sbi in the environment (``pip install -c constraints.txt sbi``). A posterior is trained for one epoch, since only the
time of its draws matters; both run from the same seed, their draws and ranks are compared, and then they take turns.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import measure, medians, ratio
from made_fast import accelerate

TEXT = "calibration of sbi's posteriors before and after accelerate; needs sbi"
QUICK = {"features": [3], "observations": 20, "draws": 20, "simulations": 200, "models": ["maf"], "seconds": 0.01}
TOLERANCE = 1e-3  # of draws in fp32, relative above 1
MOST_RANKS = 0.01  # share of ranks that may differ: those of draws beside the true parameter


def trained(model: str, features: int, arguments: argparse.Namespace) -> tuple[Any, Tensor, Tensor]:
    """A posterior of sbi, parameters from the prior and what was observed of them."""
    try:
        from sbi.inference import NPE
    except ModuleNotFoundError as error:
        raise SystemExit(f"calibration needs sbi (pip install -c constraints.txt sbi): {error}") from error

    torch.manual_seed(0)
    prior = torch.distributions.MultivariateNormal(torch.zeros(features), torch.eye(features))
    theta = prior.sample((arguments.simulations + arguments.observations,))
    x = theta @ (torch.randn(features, features) / features**0.5) + 0.3 * torch.randn_like(theta)
    inference = NPE(prior, density_estimator=model, show_progress_bars=False)
    inference.append_simulations(theta[arguments.observations :], x[arguments.observations :]).train(max_num_epochs=1)
    return inference.build_posterior(), theta[: arguments.observations], x[: arguments.observations]


def one_case(model: str, features: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table; raises if draws or ranks are others."""
    from sbi.diagnostics import run_sbc, run_tarp

    posterior, theta, x = trained(model, features, arguments)
    faster, count = accelerate(posterior), arguments.draws

    def batched(which: Any) -> Tensor:
        torch.manual_seed(1)
        drawn: Tensor = which.sample_batched((count,), x=x, show_progress_bars=False)
        return drawn

    def sbc(which: Any) -> Tensor:
        torch.manual_seed(2)
        ranks: Tensor = run_sbc(theta, x, which, num_posterior_samples=count, show_progress_bar=False)[0]
        return ranks

    def tarp(which: Any) -> Tensor:
        torch.manual_seed(3)
        coverage: Tensor = run_tarp(theta, x, which, num_posterior_samples=count, show_progress_bar=False)[0]
        return coverage

    found, expected = batched(faster), batched(posterior)
    difference = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    ranks = float(((sbc(faster) - sbc(posterior)).abs() > 0).double().mean()) / count
    if not (difference < TOLERANCE and ranks < MOST_RANKS):
        raise WrongResult(f"{model} of {features}: draws differ by {difference:.1e}, {ranks:.1%} of ranks per draw")
    row: dict[str, Any] = {"estimator": model, "parameters": features, "difference": f"{difference:.0e}"}
    for name, each in (("sample_batched", batched), ("SBC", sbc), ("TARP", tarp)):
        runs = {"before": lambda each=each: each(posterior), "after": lambda each=each: each(faster)}
        times = measure(runs, seconds=arguments.seconds, min_rounds=3)
        taken = medians(times, 1 / 60)
        row[f"{name}: minutes"] = f"{taken['before']:.2g}, {taken['after']:.2g}"
        row[f"{name}: before / after"] = ratio(times, "before", "after")
    return row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=int, nargs="+", default=[2, 3, 5, 10, 20], metavar="D", help="parameters")
    parser.add_argument("--models", nargs="*", default=["maf", "zuko_maf"], help="names of density estimators of sbi")
    parser.add_argument("--observations", type=int, default=100, help="for which posteriors are drawn")
    parser.add_argument("--draws", type=int, default=1000, help="of each posterior")
    parser.add_argument("--simulations", type=int, default=1000, help="of the training")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure; three rounds are made in any case")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``calibration.md`` and ``calibration.json``."""
    warnings.filterwarnings("ignore", module="sbi|nflows|zuko|pyro")
    rows = []
    for model in arguments.models:
        for features in arguments.features:
            rows.append(one_case(model, features, arguments))
            print(rows[-1], flush=True)
    facts = machine()
    said = [
        f"# Calibration\n\n`python -m benchmarks calibration`: {arguments.observations} observations, {arguments.draws} "
        f"draws of each posterior, sbi's own networks. {measured_on(facts)}",
        "Minutes before and after, and their ratio: median and quartiles of rounds.",
        table(tuple(rows[0]), rows),
    ]
    write("calibration", arguments.out, "\n\n".join(said), {"machine": facts, "rows": rows})
