# %% [markdown]
# # Physics: the Ising model, checked exactly
#
# Spins of -1 and +1 on a 4 x 4 lattice with wrapped edges have the energy $E(x) = -\sum_{\langle ij \rangle} x_i x_j$
# and the density $e^{-\beta E(x)} / Z$. Nobody can draw from it directly. A model q with exact samples and exact
# log-probabilities is trained until its variational free energy is as small as it gets. The lattice has 65,536
# states, so that everything can be checked.

# %%
import torch

from made_fast import MADE, plots
from made_fast.estimation import enumerate_log_prob, free_energy, score_function_loss

side, beta = 4, 0.4


def cost(x):  # (..., 16) -> beta E, (...)
    spins = x.unflatten(-1, (side, side))
    return -beta * (spins * (spins.roll(1, -1) + spins.roll(1, -2))).sum((-1, -2))


torch.manual_seed(0)
model = MADE(side**2, (48,), output="spin", direct=True, activation="silu")

# %% [markdown]
# ## Training without data
#
# Each step draws 300 lattices from the model itself. The temperature falls slowly, lest the model forget one of the
# two magnetised phases.

# %%
steps = 600
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
bounds = []
for number in range(steps):
    warm = min(1.0, 2 * (number + 1) / steps)
    step = score_function_loss(model, lambda x, warm=warm: warm * cost(x), 300, seed=number)
    optimizer.zero_grad()
    step.loss.backward()
    optimizer.step()
    schedule.step()
    bounds.append(float(step.free_energy.value))

# %% [markdown]
# ## The free energy
#
# The mean of $\log q + \beta E$ is above $\beta F$ by the divergence of q; weights of the samples correct it. How
# much the weights leave of the samples is their effective sample size.

# %%
found = free_energy(model, cost, 20_000, seed=10_000)
states, log_q = enumerate_log_prob(model)
exact = float(-torch.logsumexp(-cost(states.double()), 0))
print(f"exact       {exact:.4f}")
print(f"variational {found.variational}")
print(f"corrected   {found.corrected}")
print(f"20,000 samples are worth {found.effective_sample_size:,.0f}")
assert abs(float(found.corrected.value) - exact) < 5 * float(found.corrected.standard_error)
assert float(found.variational.value) > exact - 5 * float(found.variational.standard_error)
assert found.effective_sample_size > 5_000

# %%
from matplotlib import pyplot

figure, axis = pyplot.subplots(figsize=(6, 3), layout="constrained")
axis.plot(range(steps // 2, steps), bounds[steps // 2 :], color="#3b5bb5", label="bound, 300 samples a step")
axis.axhline(exact, color="#e8862e", label="exact")
axis.set(xlabel="step", ylabel=r"$\beta F$, nats")
axis.legend(frameon=False)

# %% [markdown]
# ## Lattices and their magnetisation
#
# Samples of the model, and how their magnetisation is distributed: as drawn, weighted, and exact by the sum over all
# states.

# %%
x, log_prob = model.sample_and_log_prob(20_000, seed=20_000)
axis = plots.images(x[:60], (side, side), output=model.output, columns=15)

# %%
log_p = exact - cost(states)
values = torch.arange(-16.0, 17.0, 2.0) / 16
weight = (-cost(x).double() - log_prob.double()).softmax(0)
shares = {
    "exact": torch.stack([log_p.exp()[states.mean(1) == value].sum() for value in values]),
    "drawn": torch.stack([(x.mean(1) == value).double().mean() for value in values]),
    "weighted": torch.stack([weight[x.mean(1) == value].sum() for value in values]),
}
figure, axis = pyplot.subplots(figsize=(6, 3), layout="constrained")
for (name, share), shift in zip(shares.items(), (-0.035, 0, 0.035), strict=True):
    axis.bar(values + shift, share, 0.034, label=name)
axis.set(xlabel="magnetisation a spin", ylabel="probability")
axis.legend(frameon=False)
assert (shares["weighted"] - shares["exact"]).abs().max() < 0.02
assert (log_q.double().exp().sum() - 1).abs() < 1e-4
