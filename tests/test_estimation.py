"""Estimates against enumeration: entropies, free energies, and the gradient of a variational free energy."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu_device import DEVICE, needs_device
from torch import Tensor

from made_fast import MADE, estimation
from made_fast.estimation import (
    Estimate,
    entropy,
    enumerate_log_prob,
    free_energy,
    log_mean_exp,
    score_function_loss,
)
from made_fast.outputs.binary import Bernoulli

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
D = 5
SMALL: dict[str, Any] = {"hidden_features": (12,), "direct": True, "order": "random"}
ENSEMBLE: dict[str, Any] = {**SMALL, "num_masks": 3}
FALSE_ALARM = 5.0  # standard errors: one in 1.7 million comparisons


def couplings(features: int = D) -> Tensor:
    drawn = torch.randn(features, features, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return drawn.triu(1)


def cost(x: Tensor) -> Tensor:
    """A spin glass of a few nats, far from zero on average so that a baseline is worth its while."""
    spins = 2 * x - 1
    return 10 - torch.einsum("...i,ij,...j->...", spins, couplings(x.shape[-1]).to(x), spins)


def exact_free_energy(features: int = D, scale: float = 1.0) -> float:
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=features)), dtype=torch.float64)
    return -float(torch.logsumexp(-scale * cost(states), 0))


def assert_within(found: Estimate, expected: float | Tensor) -> None:
    assert found.value.dtype == found.standard_error.dtype == torch.float64
    assert bool(((found.value - expected).abs() <= FALSE_ALARM * found.standard_error).all()), (found, expected)


# --- enumeration


def test_probabilities_of_all_states_sum_to_one(options: dict[str, Any], build: Build, make_context: Context) -> None:
    model = build(options)
    contexts = make_context(model, 2)
    for context in [None] if contexts is None else contexts:
        states, log_prob = enumerate_log_prob(model, context)
        assert states.shape == (2**model.features, model.features)
        assert log_prob.shape == (len(states),) and not log_prob.requires_grad
        assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(log_prob, model.log_prob(states, context).detach())


def test_states_come_in_the_order_of_an_odometer(build: Build) -> None:
    states, _ = enumerate_log_prob(build(SMALL, torch.float32, features=D))
    assert states.dtype == torch.float32
    assert states.tolist() == [list(state) for state in itertools.product((0.0, 1.0), repeat=D)]


def test_an_ensemble_is_enumerated_whole_whatever_the_mode(build: Build) -> None:
    model = build(ENSEMBLE, features=D)
    masks = [enumerate_log_prob(model, mask=mask)[1] for mask in range(3)]
    for mode in (True, False):
        _, whole = enumerate_log_prob(model.train(mode))
        torch.testing.assert_close(whole, torch.stack(masks).logsumexp(0) - math.log(3))


def test_pieces_change_nothing(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(SMALL, features=D)
    _, whole = enumerate_log_prob(model)
    monkeypatch.setattr(estimation, "_VALUES_AT_ONCE", 40)
    _, in_pieces = enumerate_log_prob(model)
    torch.testing.assert_close(in_pieces, whole)


class Listed(Bernoulli):
    """An output that lists the values of its variables."""

    def __init__(self, values: list[Tensor | None]) -> None:
        self.listed = values

    def check(self, x: Tensor) -> None:
        pass

    def values(self, features: int) -> list[Tensor | None]:
        return self.listed


def test_values_come_from_the_output_if_it_lists_them() -> None:
    values = [torch.tensor([-1.0, 1.0]), torch.tensor([0, 1, 2]), torch.tensor([0.5])]
    states, log_prob = enumerate_log_prob(MADE(3, (), output=Listed(values)))
    assert states.tolist() == [list(state) for state in itertools.product((-1, 1), (0, 1, 2), (0.5,))]
    assert log_prob.shape == (6,)


@pytest.mark.parametrize("real", [torch.empty(0), None])
def test_a_real_variable_cannot_be_enumerated(real: Tensor | None) -> None:
    model = MADE(2, (), output=Listed([torch.tensor([0.0, 1.0]), real]))
    with pytest.raises(ValueError, match=r"model must have variables with finitely many values.*variable 1"):
        enumerate_log_prob(model)


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_states=1048576 states to enumerate, got about 10\*\*6\.3"):
        enumerate_log_prob(MADE(21, ()))
    with pytest.raises(ValueError, match=r"max_states=7"):
        enumerate_log_prob(MADE(3, ()), max_states=7)
    assert len(enumerate_log_prob(MADE(3, ()), max_states=8)[0]) == 8
    assert len(enumerate_log_prob(MADE(20, ()))[0]) == 2**20


def test_one_context_is_asked_for() -> None:
    model, context = MADE(3, (4,), context_features=2), torch.zeros(2)
    for wrong in (None, context[None], torch.zeros(3)):
        with pytest.raises(ValueError, match=r"context must have shape \(2,\)"):
            enumerate_log_prob(model, wrong)
    with pytest.raises(ValueError, match=r"context must be None"):
        enumerate_log_prob(MADE(3, (4,)), context)


# --- estimates


def test_an_interval_is_the_normal_one() -> None:
    estimate = Estimate(torch.tensor([1.0, 2.0]), torch.tensor(0.5))
    lower, upper = estimate.interval()
    torch.testing.assert_close(upper - lower, torch.full((2,), 2 * 1.959964 * 0.5))
    torch.testing.assert_close(lower + upper, 2 * estimate.value)
    lower, upper = estimate.interval(0.6826895)
    torch.testing.assert_close(upper - lower, torch.ones(2))


@pytest.mark.parametrize("level", [0, 1, -0.5, 95])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1"):
        Estimate(torch.zeros(()), torch.ones(())).interval(level)


@pytest.mark.parametrize("settings", [SMALL, ENSEMBLE], ids=["one mask", "ensemble"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_entropy(settings: dict[str, Any], dtype: torch.dtype, build: Build) -> None:
    model = build(settings, dtype, features=D)
    _, log_prob = enumerate_log_prob(model)
    exact = -float((log_prob.double().exp() * log_prob.double()).sum())
    spread = float((log_prob.double().exp() * (log_prob.double() + exact) ** 2).sum()) ** 0.5
    found = entropy(model, 4000, seed=1)
    assert_within(found, exact)
    assert float(found.standard_error) == pytest.approx(spread / 4000**0.5, rel=0.1)
    assert found == entropy(model, 4000, seed=1)


def test_entropy_of_one_mask_and_of_each_context(build: Build, make_context: Context) -> None:
    model = build(ENSEMBLE, features=D)
    _, log_prob = enumerate_log_prob(model, mask=2)
    assert_within(entropy(model, 4000, seed=1, mask=2), -(log_prob.exp() * log_prob).sum())
    model = build({**SMALL, "context_features": 2}, features=D)
    contexts = make_context(model, 3)
    assert contexts is not None
    expected = [-(p.exp() * p).sum() for _, p in (enumerate_log_prob(model, context) for context in contexts)]
    assert_within(entropy(model, 3000, contexts, seed=1), torch.stack(expected))


def test_log_mean_exp() -> None:
    log_weights = torch.randn(400, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    found = log_mean_exp(log_weights)
    torch.testing.assert_close(found.value, log_weights.logsumexp(-1) - math.log(1000))
    exact = 1 / 8  # of a log-normal weight
    scores = (found.value - exact) / found.standard_error
    assert float(scores.std()) == pytest.approx(1, abs=FALSE_ALARM / 800**0.5)
    assert abs(float(scores.mean())) < 0.3
    for shift in (1e4, -1e4):
        shifted = log_mean_exp(log_weights + shift)
        torch.testing.assert_close(shifted.value, found.value + shift)
        torch.testing.assert_close(shifted.standard_error, found.standard_error)


def test_log_mean_exp_of_impossible_weights() -> None:
    assert float(log_mean_exp(torch.tensor([-torch.inf, 0.0])).value) == pytest.approx(-math.log(2))
    assert float(log_mean_exp(torch.tensor([-torch.inf, -torch.inf])).value) == -math.inf
    for wrong in (torch.zeros(()), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match=r"log_weights must have shape"):
            log_mean_exp(wrong)


# --- free energy


@pytest.mark.parametrize("settings", [SMALL, ENSEMBLE], ids=["one mask", "ensemble"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_free_energy(settings: dict[str, Any], dtype: torch.dtype, build: Build) -> None:
    model = build({**settings, "hidden_features": ()}, dtype, features=D)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)  # nearly uniform, so that weights have a moderate spread
    states, log_prob = enumerate_log_prob(model)
    small = 0.3
    found = free_energy(model, lambda x: small * cost(x), 20_000, seed=3)
    assert_within(found.variational, (log_prob.exp() * (log_prob + small * cost(states))).sum().double())
    assert_within(found.corrected, exact_free_energy(scale=small))
    assert float(found.corrected.value) < float(found.variational.value)


def test_a_perfect_model_has_no_error() -> None:
    fields = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    model = MADE(3, ()).double()
    with torch.no_grad():
        model.parameters_layer.bias.copy_(fields)
    found = free_energy(model, lambda x: -x @ fields, 100)
    for estimate in (found.variational, found.corrected):
        assert float(estimate.value) == pytest.approx(-float(torch.nn.functional.softplus(fields).sum()), abs=1e-12)
        assert float(estimate.standard_error) < 1e-12
    assert float(found.effective_sample_size) == pytest.approx(100)


def test_free_energy_of_each_context(build: Build) -> None:
    """The context is beta: one model for all temperatures."""
    model = build({**SMALL, "hidden_features": (4,), "context_features": 1}, features=D)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
    betas = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = free_energy(model, lambda x: betas[:, None] * cost(x), 20_000, betas[:, None], seed=0)
    exact = torch.tensor([exact_free_energy(scale=float(beta)) for beta in betas], dtype=torch.float64)
    assert_within(found.corrected, exact)
    error = found.corrected.standard_error
    torch.testing.assert_close(found.effective_sample_size, 20_000 / (1 + 19_999 * error**2))


# --- gradient


def exact_gradient(model: MADE, context: Tensor | None = None, mask: int | None = None) -> Tensor:
    """The gradient of E_q[log q + cost], all parameters one after another."""
    states, _ = enumerate_log_prob(model, context)
    log_prob = model.log_prob(states, context, masks=mask)
    return flat_gradient(model, (log_prob.exp() * (log_prob + cost(states))).sum())


def flat_gradient(model: MADE, loss: Tensor) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(model.parameters()))])


def gradients(model: MADE, draws: int, num_samples: int, **arguments: Any) -> Tensor:
    """Independent estimates of the gradient, (draws, number of parameters)."""
    found = [score_function_loss(model, cost, num_samples, seed=seed, **arguments) for seed in range(draws)]
    return torch.stack([flat_gradient(model, each.loss) for each in found])


def assert_unbiased(found: Tensor, expected: Tensor) -> None:
    """The mean over draws is the expected gradient within standard errors; where every draw is zero, exactly."""
    error = found.std(0) / len(found) ** 0.5
    scores = (found.mean(0) - expected)[error > 0] / error[error > 0]
    assert float(scores.abs().max()) < FALSE_ALARM
    assert float(scores.square().mean()) < 4  # parameters are correlated, so this is no chi-square
    torch.testing.assert_close(expected[error == 0], torch.zeros_like(expected[error == 0]), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [2, 30])
def test_the_gradient_is_that_of_the_free_energy(num_samples: int, build: Build) -> None:
    """With two samples a biased baseline would show: the mean over both halves the gradient."""
    model = build(SMALL, features=D)
    expected = exact_gradient(model)
    found = gradients(model, 1200, num_samples)
    assert_unbiased(found, expected)
    assert float(expected.norm()) > FALSE_ALARM * float((found.std(0) / len(found) ** 0.5).norm())


def test_many_samples_give_the_exact_gradient(build: Build) -> None:
    model = build(SMALL, features=6)
    expected = exact_gradient(model)
    found = flat_gradient(model, score_function_loss(model, cost, 400_000, seed=0).loss)
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.slow
def test_baselines(build: Build) -> None:
    """All are unbiased but for the factor 1 - 1/n of the mean; none has the greatest variance."""
    model, draws, n = build(SMALL, features=D), 1000, 4
    with_mean, left_out, without = (
        gradients(model, draws, n, baseline=name) for name in ("mean", "leave_one_out", None)
    )
    torch.testing.assert_close(with_mean, left_out * (1 - 1 / n))
    assert_unbiased(without, exact_gradient(model))
    assert float(left_out.var(0).sum()) < 0.5 * float(without.var(0).sum())


@pytest.mark.slow
def test_an_ensemble_in_both_modes(build: Build) -> None:
    model = build(ENSEMBLE, features=D)
    model.eval()
    assert_unbiased(gradients(model, 600, 10), exact_gradient(model))
    model.train()
    model.mask_index = 2
    step = score_function_loss(model, cost, 50, seed=1)
    assert torch.equal(step.x, model.sample(50, seed=1, mask=2))
    torch.testing.assert_close(step.log_prob, model.log_prob(step.x, masks=2).detach())
    assert_unbiased(gradients(model, 600, 10), exact_gradient(model, mask=2))


@pytest.mark.slow
def test_contexts_have_baselines_of_their_own(build: Build, make_context: Context) -> None:
    model = build({**SMALL, "context_features": 2}, features=D)
    contexts = make_context(model, 3)
    assert contexts is not None
    step = score_function_loss(model, cost, 7, contexts, seed=1)
    assert step.x.shape == (3, 7, D) and step.log_prob.shape == step.cost.shape == (3, 7)
    assert step.loss.shape == () and step.free_energy.value.shape == (3,)
    expected = torch.stack([exact_gradient(model, context) for context in contexts]).mean(0)
    assert_unbiased(gradients(model, 800, 4, context=contexts), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_a_step_returns(dtype: torch.dtype, build: Build) -> None:
    model = build(SMALL, dtype, features=D)
    step = score_function_loss(model, cost, 500, seed=4)
    assert torch.equal(step.x, model.sample(500, seed=4)) and step.x.dtype == dtype
    assert not (step.log_prob.requires_grad or step.cost.requires_grad or step.free_energy.value.requires_grad)
    reward = step.log_prob.double() + step.cost
    torch.testing.assert_close(step.free_energy.value, reward.mean())
    torch.testing.assert_close(step.free_energy.standard_error, reward.std() / 500**0.5)
    step.loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    sampler_says = model.sample_and_log_prob(500, seed=4)[1].double()
    assert float((sampler_says - step.log_prob.double()).abs().max()) < (0.2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.slow
def test_training_lowers_the_free_energy() -> None:
    model = MADE(D, (16,), direct=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for number in range(200):
        step = score_function_loss(model, lambda x: 0.5 * cost(x), 200, seed=number)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    found, exact = free_energy(model, lambda x: 0.5 * cost(x), 10_000, seed=999), exact_free_energy(scale=0.5)
    assert exact - 5e-3 < float(found.variational.value) < exact + 0.1
    assert_within(found.corrected, exact)


@pytest.mark.parametrize("estimate", [free_energy, score_function_loss])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, r"cost must return a tensor of shape \(4,\), one for each sample, got \(4, 3\)"),
        (lambda x: 1.0, r"cost must return a tensor of shape \(4,\), one for each sample, got 1\.0"),
        (lambda x: x[:, 0] / 0, r"cost must be finite"),
    ],
)
def test_a_wrong_cost_is_named(estimate: Callable[..., object], function: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(MADE(3, ()), function, 4)


@pytest.mark.parametrize("number", [0, 1, -3, 2.5, True])
def test_a_standard_error_needs_two_samples(number: int) -> None:
    model = MADE(3, ())
    for call in (
        lambda: entropy(model, number),
        lambda: free_energy(model, cost, number),
        lambda: score_function_loss(model, cost, number),
    ):
        with pytest.raises(ValueError, match=r"num_samples must be an integer, 2 or more"):
            call()


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(ValueError, match=r"baseline must be one of 'leave_one_out', 'mean', None, got 'median'"):
        score_function_loss(MADE(3, ()), cost, 4, baseline="median")


# --- a GPU


@pytest.mark.parametrize("device", [pytest.param(DEVICE, marks=needs_device)])
def test_everything_stays_on_the_device(device: str, build: Build) -> None:
    model = build(SMALL, torch.float32, features=D).to(device)
    states, log_prob = enumerate_log_prob(model)
    exact = float((log_prob.exp() * (log_prob + cost(states))).sum())
    step, found = score_function_loss(model, cost, 4000, seed=0), free_energy(model, cost, 4000, seed=0)
    step.loss.backward()
    for tensor in (states, log_prob, step.x, step.cost, step.free_energy.value, found.corrected.standard_error):
        assert tensor.device.type == device
    assert_within(found.variational, exact)
    assert_within(step.free_energy, exact)
    assert entropy(model, 100, seed=0).value.device.type == device
