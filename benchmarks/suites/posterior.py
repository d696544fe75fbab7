"""Samples of an sbi posterior before and after ``accelerate_flow``: ``python -m benchmarks.posterior``.

Needs sbi in the environment (``pip install -c constraints.txt sbi``). Trains a masked autoregressive flow on a toy simulator
(a linear one with noise), draws from its posterior with the library's own code and with the accelerated one in turns, and
compares the two: draw for draw from the same seed, and each variable by a Kolmogorov-Smirnov test from different seeds.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from benchmarks.timing import measure, ratio
from made_fast.flows.adapters import accelerate_flow, inverters


def trained(features: int, model: str, simulations: int, epochs: int) -> tuple[Any, Tensor]:
    """A posterior of sbi, and an observation."""
    from sbi.inference import NPE

    prior = torch.distributions.MultivariateNormal(torch.zeros(features), torch.eye(features))
    theta = prior.sample((simulations,))
    x = theta @ (torch.eye(features) + 0.3 * torch.ones(features, features).tril(-1)).T
    x = x + 0.3 * torch.randn(simulations, features)
    inference = NPE(prior=prior, density_estimator=model, show_progress_bars=False)
    estimator = inference.append_simulations(theta, x).train(max_num_epochs=epochs)
    return inference.build_posterior(estimator.eval()), x[:1]


def main() -> None:
    """Trains, compares, times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--model", choices=["maf", "zuko_maf", "zuko_nsf"], default="maf")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="sbi|nflows|zuko|pyro")
    torch.manual_seed(0)
    posterior, observed = trained(arguments.features, arguments.model, arguments.simulations, arguments.epochs)
    faster = object.__new__(type(posterior))  # copy.copy of a posterior shares its attributes with the original
    faster.__dict__.update(posterior.__dict__)
    faster.posterior_estimator = accelerate_flow(posterior.posterior_estimator)
    if inverters(posterior.posterior_estimator):
        raise SystemExit("the posterior to compare with must be the library's own, but it is accelerated too")

    def draw(which: Any, seed: int) -> Tensor:
        torch.manual_seed(seed)
        found: Tensor = which.sample((arguments.rows,), x=observed, show_progress_bars=False)
        return found

    difference = float((draw(faster, 1) - draw(posterior, 1)).abs().max())
    if not difference < 1e-3:
        raise SystemExit(f"posterior samples differ by {difference:.1e}; nothing is timed")
    pairs = zip(draw(faster, 2).T.numpy(), draw(posterior, 3).T.numpy(), strict=True)
    least = min(float(ks_2samp(a, b).pvalue) for a, b in pairs)
    times = measure(
        {"sbi": lambda: draw(posterior, 4), "accelerated": lambda: draw(faster, 4)}, seconds=arguments.seconds
    )
    rates = {name: arguments.rows / statistics.median(found) for name, found in times.items()}
    print(f"{len(inverters(faster.posterior_estimator))} transforms, {inverters(faster.posterior_estimator)[0].how}")
    print(f"largest difference from the same seed: {difference:.1e}")
    print(f"least p-value of {arguments.features} Kolmogorov-Smirnov tests: {least:.3f}")
    print(f"samples a second: {rates['sbi']:.0f} before, {rates['accelerated']:.0f} after")
    print(f"time before / after: {ratio(times, 'sbi', 'accelerated')}")


if __name__ == "__main__":
    main()
