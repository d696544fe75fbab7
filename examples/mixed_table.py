"""A table with columns of different kinds: train, fill in missing cells, answer a range query with its error.

    python examples/mixed_table.py

The table is generated, so that every answer can be compared with the truth. Its columns: region (one of three), member (yes
or no, more often in some regions), age (by region), spending (grows with age, and jumps for members).
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from made_fast import MADE, Between
from made_fast.outputs.binary import Bernoulli
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.mixtures import MixtureOfNormals
from made_fast.training.fitting import fit

REGION, MEMBER, AGE, SPENDING = range(4)


def generate(rows: int, seed: int) -> Tensor:
    """The table, (rows, 4): age in decades, spending in hundreds."""
    generator = torch.Generator().manual_seed(seed)
    region = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), rows, replacement=True, generator=generator)
    member = torch.bernoulli(torch.tensor([0.2, 0.5, 0.8])[region], generator=generator)
    age = torch.tensor([3.0, 4.5, 6.0])[region] + 0.8 * torch.randn(rows, generator=generator)
    spending = 0.5 * age + 2 * member + 0.4 * torch.randn(rows, generator=generator)
    return torch.stack([region.float(), member, age, spending], dim=1)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs of training, for a look at the program")
    parser.add_argument("--picture", help="file for a picture of columns, generated and drawn; needs matplotlib")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    table = generate(20_000, seed=0)

    # One output for each column. Real columns get mixtures, since a column may have several humps, as spending has.
    columns = Mixed([Categorical(3), Bernoulli(), MixtureOfNormals(4), MixtureOfNormals(4)])
    model = MADE(4, (64, 64), output=columns, activation="silu")
    epochs = 8 if arguments.quick else 40
    fit(model, table[2000:], table[:2000], epochs=epochs, batch_size=200, learning_rate=5e-3, weight_decay=0.0)
    fresh = generate(2000, seed=1)
    print(f"-log p of rows that were not seen: {-model.log_prob(fresh).mean():.3f} nats a row")

    # Missing cells. The ages of 200 rows are unknown, region, member and spending are known. Spending comes after age in the
    # order, so each draw carries a weight: how well its age explains the spending. The weighted mean is the estimate.
    truth = fresh[:200]
    observed = torch.tensor([True, True, False, True])
    drawn = model.sample(500, seed=2, given=truth, observed=observed)  # x (200, 500, 4), log_weight (200, 500)
    weight = torch.softmax(drawn.log_weight, dim=-1)
    filled = (weight * drawn.x[..., AGE]).sum(-1)
    effective = 1 / (weight**2).sum(-1)  # how many unweighted draws these are worth
    error = (filled - truth[:, AGE]).square().mean().sqrt()
    constant = (table[:, AGE].mean() - truth[:, AGE]).square().mean().sqrt()
    print(f"missing ages: error {error:.2f} decades, {constant:.2f} if the column's mean is filled in")
    print(f"500 weighted draws are worth {effective.median():.0f} (median)")

    # A range query: which share of rows has region 0 or 2, age from 30 to 50, spending of 300 or more? No row is looked at:
    # each draw is cut to what the query allows, and the mass that is kept estimates the share without bias.
    query = {REGION: {0, 2}, AGE: Between(3.0, 5.0), SPENDING: Between(low=3.0)}
    share = model.estimate_probability(query, 20_000, seed=3)
    low, high = (float(end) for end in share.interval(0.95))
    large = generate(500_000, seed=4)
    matches = (large[:, REGION] != 1) & (large[:, AGE] >= 3) & (large[:, AGE] <= 5) & (large[:, SPENDING] >= 3)
    counted = float(matches.float().mean())
    print(
        f"share of the query: {share.value:.4f}, 95 % of sampling between {low:.4f} and {high:.4f}; counted {counted:.4f}"
    )
    if arguments.picture:
        from made_fast import plots

        axes = plots.marginals(fresh, model.sample(2000, seed=5), names=["region", "member", "age", "spending"])
        axes.flat[0].figure.savefig(arguments.picture)
    return {"error": float(error), "constant": float(constant), "share": float(share.value), "counted": counted}


if __name__ == "__main__":
    main()
