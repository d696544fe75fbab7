"""Simulation-based inference: the posterior of a simulator's parameters, learned from simulations alone.

    python examples/simulation_based_inference.py

A simulator draws an observation x for parameters theta, but its likelihood is not used. A MADE of theta with x as its context
is trained on pairs (theta, x): then q(theta | x) approaches the posterior, for every x at once. The simulator here is a toy
whose likelihood is known after all, so that the result can be checked on a grid.

Source: Papamakarios and Murray, "Fast epsilon-free Inference of Simulation Models with Bayesian Conditional Density
Estimation", NeurIPS 2016.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from made_fast import MADE
from made_fast.outputs.mixtures import MixtureOfNormals

NOISE = 0.3
OBSERVED = torch.tensor([0.8, -0.7])


def mean_of(theta: Tensor) -> Tensor:
    """What is observed without noise, (..., 2): sum and product. Both stay when the two parameters change places."""
    return torch.stack([theta.sum(-1), theta.prod(-1)], dim=-1)


def simulate(theta: Tensor) -> Tensor:
    """An observation (n, 2) for parameters (n, 2)."""
    return mean_of(theta) + NOISE * torch.randn_like(theta)


def exact_posterior(side: int) -> tuple[Tensor, Tensor]:
    """A grid of parameters (side**2, 2) with the exact posterior at each, as probabilities that sum to 1."""
    ticks = torch.linspace(-4, 4, side)
    theta = torch.cartesian_prod(ticks, ticks)
    log_joint = -theta.square().sum(-1) / 2 - (OBSERVED - mean_of(theta)).square().sum(-1) / (2 * NOISE**2)
    return theta, torch.softmax(log_joint.double(), 0)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps of training, for a look at the program")
    parser.add_argument("--picture", help="file for a picture of both posteriors; needs matplotlib")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)

    # The posterior has two humps: (theta_0, theta_1) and (theta_1, theta_0) explain x equally well. A single normal for each
    # variable could not follow it; a mixture can, and the second variable sees which hump the first one has chosen.
    model = MADE(2, (64, 64), output=MixtureOfNormals(8), context_features=2, activation="silu")
    steps = 800 if arguments.quick else 6000
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(steps):
        theta = torch.randn(512, 2)  # from the prior, a standard normal
        loss = -model.log_prob(theta, simulate(theta)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (number + 1) % (steps // 4) == 0:
            print(f"step {number + 1}: {loss:.3f} nats")

    # Samples for one observation. 10,000 of them take milliseconds.
    samples = model.sample(10_000, OBSERVED[None], seed=0)[0]  # (10000, 2)

    # The exact posterior on a grid, and the learned one at the same places.
    side = 401
    theta, exact = exact_posterior(side)
    with torch.no_grad():
        learned = model.log_prob(theta, OBSERVED.expand(len(theta), 2)).double()
    cell = (8 / (side - 1)) ** 2
    divergence = (exact * (torch.log(exact.clamp(min=1e-300)) - learned - torch.log(torch.tensor(cell)))).sum()
    inside = float((learned.exp() * cell).sum())
    spread = (exact * (theta[:, 0] - theta[:, 1]).abs()).sum()
    found = (samples[:, 0] - samples[:, 1]).abs().mean()
    first = (samples[:, 0] > samples[:, 1]).float().mean()
    print(f"divergence KL(exact || learned): {divergence:.4f} nats; mass of the learned one on the grid: {inside:.4f}")
    print(f"mean of |theta_0 - theta_1|: {found:.3f} of the samples, {spread:.3f} exact")
    print(f"share of samples with theta_0 > theta_1: {first:.3f}, 0.5 exact")
    if arguments.picture:
        from made_fast import plots

        drawn = theta[torch.multinomial(exact, 10_000, replacement=True)]  # of the exact one
        axes = plots.pairs(drawn, samples, names=["theta 0", "theta 1"], labels=("exact", "learned"))
        axes.flat[0].figure.savefig(arguments.picture)
    return {
        "divergence": float(divergence),
        "spread": float(found),
        "exact spread": float(spread),
        "first": float(first),
    }


if __name__ == "__main__":
    main()
