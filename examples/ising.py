"""The Ising model on 4 x 4 sites by a variational autoregressive network: free energy against enumeration.

    python examples/ising.py

There are no data here. The network is trained from its own samples to follow the Boltzmann distribution exp(-beta E) / Z.
This is where quick sampling matters: each step of training draws anew. 2**16 states can be enumerated, so that the result
can be checked.

Source: Wu, Wang, Zhang, "Solving Statistical Mechanics Using Variational Autoregressive Networks", PRL 122, 080602 (2019).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from made_fast import MADE
from made_fast.estimation import enumerate_log_prob, free_energy, score_function_loss

SIDE = 4
BETA = 0.4406868  # where the infinite lattice orders


def energy(x: Tensor) -> Tensor:
    """Energy (...) of spins -1, +1 on a periodic lattice, x (..., 16): each pair of neighbours that agree gives -1."""
    spins = x.unflatten(-1, (SIDE, SIDE))
    return -(spins * (spins.roll(1, -1) + spins.roll(1, -2))).sum((-1, -2))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps of training, for a look at the program")
    parser.add_argument("--picture", help="file for a picture of lattices; needs matplotlib")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)

    # Variables are -1 or +1. Their order on the lattice is line by line.
    model = MADE(SIDE**2, (64, 64), output="spin", direct=True, activation="silu")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = 400 if arguments.quick else 3000
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)

    # Each step draws 500 lattices. The loss makes E[log q + beta E] smaller, which is the free energy beta F plus the
    # divergence of q from the Boltzmann distribution. beta rises slowly, so that no state is forgotten on the way.
    for number in range(steps):
        beta = BETA * min(1.0, 2 * (number + 1) / steps)
        step = score_function_loss(model, lambda x, beta=beta: beta * energy(x), 500, seed=number)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        schedule.step()
        if (number + 1) % (steps // 4) == 0:
            print(f"step {number + 1}: beta {beta:.3f}, beta F at most {step.free_energy.value:.4f}")

    # Two estimates from the same samples: an upper bound, and one whose error importance weights correct.
    found = free_energy(model, lambda x: BETA * energy(x), 20_000, seed=2**40)

    # The exact one: the sum over all states.
    states, log_prob = enumerate_log_prob(model)
    log_weight = -BETA * energy(states).double()
    exact = -torch.logsumexp(log_weight, 0)
    print(f"beta F, exact:       {exact:.4f} nats")
    for name, estimate in (("variational", found.variational), ("corrected", found.corrected)):
        print(f"beta F, {name + ':':12} {estimate.value:.4f} +- {estimate.standard_error:.4f}")
    print(f"20,000 samples are worth {found.effective_sample_size:,.0f} of the Boltzmann distribution")

    # How far the network is from the Boltzmann distribution, state by state.
    divergence = (log_prob.double().exp() * (log_prob.double() - (log_weight + exact))).sum()
    print(f"divergence KL(q || p): {divergence:.1e} nats")
    if arguments.picture:
        from made_fast import plots

        axes = plots.images(model.sample(32, seed=5), (SIDE, SIDE), columns=8)
        axes.figure.savefig(arguments.picture)
    corrected = found.corrected
    return {
        "divergence": float(divergence),
        "bound - exact": float(found.variational.value - exact),
        "standard errors": float((corrected.value - exact).abs() / corrected.standard_error),
    }


if __name__ == "__main__":
    main()
