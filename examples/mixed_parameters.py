"""Simulation-based inference with sbi where parameters are discrete and continuous: the posterior against the exact one.

    python examples/mixed_parameters.py        (needs sbi: pip install sbi)

A simulator has a category, a number and a switch, in this order, and two noisy observations. sbi's NPE trains one MADE for
all three and draws from it. The number can be integrated out by hand, so that the probability of each category with each
switch, given what was observed, is known, and with it the whole posterior. `--mnpe` trains sbi's own estimator for such
parameters beside it, on the same simulations.

Source: sbi issue 907; Boelts, Lueckmann, Gao, Macke, "Flexible and efficient simulation-based inference for models of
decision-making", eLife 2022.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MultivariateNormal, Normal

from made_fast.compat.sbi import posterior_made

SHARES = torch.tensor([0.5, 0.3, 0.2])  # of the categories, before anything is observed
DIRECTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])  # in which the number acts, by category
STEP, NOISE = torch.tensor([0.5, 0.5]), 0.4
PAIRS = list(itertools.product(range(3), (0, 1)))  # category and switch


def mean_of(theta: Tensor) -> Tensor:
    """What is observed without noise, (n, 2), for parameters (n, 3)."""
    category, number, switch = theta.unbind(-1)
    return DIRECTIONS[category.long()] * number[:, None] + (2 * switch - 1)[:, None] * STEP


def simulate(theta: Tensor) -> Tensor:
    """Observations (n, 2) for parameters (n, 3)."""
    return mean_of(theta) + NOISE * torch.randn(len(theta), 2)


def log_joint(x: Tensor) -> Tensor:
    """log p(category, switch, x) of each pair, (6, n): the number integrates out."""
    found = []
    for category, switch in PAIRS:
        direction = DIRECTIONS[category]
        law = MultivariateNormal((2 * switch - 1) * STEP, direction[:, None] * direction + NOISE**2 * torch.eye(2))
        found.append(SHARES[category].log() - math.log(2) + law.log_prob(x))
    return torch.stack(found)


def exact_log_prob(theta: Tensor, x: Tensor) -> Tensor:
    """The log of the exact posterior, (n,)."""
    category, number, _ = theta.unbind(-1)
    prior = SHARES.log()[category.long()] + Normal(0.0, 1.0).log_prob(number) - math.log(2)
    return prior + Normal(mean_of(theta), NOISE).log_prob(x).sum(-1) - log_joint(x).logsumexp(0)


def trained(kind: str, prior: Any, build: Any, theta: Tensor, x: Tensor, **options: Any) -> tuple[Any, Any, float]:
    """A posterior of sbi, its estimator, and the seconds of the processor that training took."""
    import sbi.inference
    from sbi.inference.posteriors.posterior_parameters import DirectPosteriorParameters

    inference = getattr(sbi.inference, kind)(prior, density_estimator=build, show_progress_bars=False)
    start = time.process_time()
    estimator = inference.append_simulations(theta, x).train(**options)
    seconds = time.process_time() - start
    # No map to unbounded numbers exists for categories; only MCMC and the search for a maximum would use one.
    posterior = inference.build_posterior(posterior_parameters=DirectPosteriorParameters(enable_transform=False))
    return posterior, estimator, seconds


def sbi_alone(
    parts: dict[str, Any], theta: Tensor, x: Tensor, observed: Tensor, test: tuple[Tensor, ...], options: dict[str, Any]
) -> float:
    """The same by sbi's MNPE, which wants the continuous parameters first; returns its KL(exact || learned)."""
    from sbi.utils import MultipleIndependent

    order = [1, 0, 2]
    prior = MultipleIndependent([list(parts.values())[each] for each in order], validate_args=False)
    posterior, estimator, seconds = trained("MNPE", prior, "mnpe", theta[:, order], x, **options)
    fresh, seen, exact = test
    with torch.no_grad():
        divergence = float((exact - estimator.log_prob(fresh[None][..., order], seen)[0]).mean())
    print(f"MNPE of sbi: KL(exact || learned) {divergence:.4f} nats; trained in {seconds:.0f} s")
    start = time.perf_counter()
    posterior.sample((20_000,), x=observed, show_progress_bars=False)
    print(f"20,000 samples in {1e3 * (time.perf_counter() - start):.0f} ms")
    return divergence


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Runs the example and returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer simulations, for a look at the program")
    parser.add_argument("--mnpe", action="store_true", help="train sbi's own mixed estimator beside it")
    arguments = parser.parse_args(argv)
    from sbi.utils import MultipleIndependent

    warnings.filterwarnings("ignore", module="sbi")
    torch.manual_seed(0)
    parts = {"category": Categorical(SHARES[None]), "number": Normal(torch.zeros(1), torch.ones(1))}
    parts["switch"] = Bernoulli(torch.tensor([0.5]))
    prior = MultipleIndependent(list(parts.values()), validate_args=False)
    theta = prior.sample((5_000 if arguments.quick else 20_000,))
    x = simulate(theta)

    # Column 0 has the values 0, 1, 2 and column 2 the values 0, 1; what is not named is continuous.
    options: dict[str, Any] = {"max_num_epochs": 40, "learning_rate": 2e-3} if arguments.quick else {}
    build = posterior_made({0: 3, 2: 2})
    posterior, estimator, seconds = trained("NPE", prior, build, theta, x, **options)

    # How far it is from the exact posterior, over observations that it has not seen: the mean of KL(exact || learned).
    fresh = prior.sample((20_000,))
    seen = simulate(fresh)
    exact = exact_log_prob(fresh, seen)
    with torch.no_grad():
        divergence = float((exact - estimator.log_prob(fresh[None], seen)[0]).mean())
    print(f"NPE with posterior_made: KL(exact || learned) {divergence:.4f} nats; trained in {seconds:.0f} s")

    # The probability of each pair for one observation, by samples.
    observed = torch.tensor([[0.6, -0.3]])
    start = time.perf_counter()
    samples = posterior.sample((20_000,), x=observed, show_progress_bars=False)
    print(f"20,000 samples in {1e3 * (time.perf_counter() - start):.0f} ms")
    shares = log_joint(observed)[:, 0].softmax(0)
    worst = 0.0
    for (category, switch), share in zip(PAIRS, shares.tolist(), strict=True):
        found = float(((samples[:, 0] == category) & (samples[:, 2] == switch)).float().mean())
        worst = max(worst, abs(found - share))
        print(f"category {category}, switch {switch}: {found:.3f} of the samples, {share:.3f} exact")
    figures = {"divergence": divergence, "worst": worst}

    if arguments.mnpe:
        figures["mnpe"] = sbi_alone(parts, theta, x, observed, (fresh, seen, exact), options)
    return figures


if __name__ == "__main__":
    main()
