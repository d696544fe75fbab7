"""Output distributions: the table, normalization, and the tails."""

from typing import Any

import pytest
import torch

from made_fast.outputs import OUTPUTS, Bernoulli, make_output


@pytest.fixture(params=list(OUTPUTS))
def output(request: pytest.FixtureRequest) -> Any:
    """Every row of the table."""
    return make_output(request.param)


def test_table_and_names_agree(output: Any) -> None:
    assert type(output) is OUTPUTS[output.name]
    assert make_output(output) is output
    assert len(output.params_per_variable(5)) == 5
    assert output.num_draws >= 1


def test_log_prob_is_that_of_the_distribution(output: Any) -> None:
    params = torch.randn(7, 3, sum(output.params_per_variable(4)), dtype=torch.float64)
    distribution = output.distribution(params)
    assert distribution.batch_shape == (7, 3)
    assert distribution.event_shape == (4,)
    x = distribution.sample()
    output.check(x)
    found = output.log_prob(params, x)
    assert found.shape == (7, 3, 4)
    torch.testing.assert_close(found.sum(-1), distribution.log_prob(x))


def test_draws_follow_the_distribution(output: Any) -> None:
    params = torch.randn(sum(output.params_per_variable(4)), dtype=torch.float64)
    uniforms = torch.rand(40_000, 4, output.num_draws)
    x = output.draw(params.expand(40_000, -1), uniforms)
    assert x.shape == (40_000, 4)
    assert x.dtype == torch.float64
    output.check(x)
    distribution = output.distribution(params)
    standard_error = distribution.stddev / 200
    assert ((x.mean(0) - distribution.mean).abs() < 5 * standard_error).all()


@pytest.mark.parametrize("bad", [0.5, -1.0, 2.0, torch.nan, torch.inf])
def test_bernoulli_takes_zeros_and_ones_only(bad: float) -> None:
    x = torch.zeros(3, 4)
    Bernoulli().check(x)
    Bernoulli().check(x.bool())
    Bernoulli().check(x[:0])
    x[1, 2] = bad
    with pytest.raises(ValueError, match=rf"^x must be 0 or 1 .*got {bad}.*\Z"):
        Bernoulli().check(x)


def test_bernoulli_draws_one_iff_the_uniform_is_below_the_probability() -> None:
    probability = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    below, at = probability - 2.0**-24, probability + 2.0**-24
    logits = torch.logit(probability)
    assert Bernoulli().draw(logits, below[:, None]).tolist() == [1, 1, 1]
    assert Bernoulli().draw(logits, at[:, None]).tolist() == [0, 0, 0]
    assert Bernoulli().draw(torch.zeros(1), torch.tensor([[0.5]])).tolist() == [0]  # u < 1/2 is strict


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_tails_are_exact_and_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([-1000.0, -100.0, 100.0, 1000.0], dtype=dtype, requires_grad=True)
    zeros, ones = torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype)
    likely = Bernoulli().log_prob(logits, (logits > 0).to(dtype))
    unlikely = Bernoulli().log_prob(logits, (logits < 0).to(dtype))
    torch.testing.assert_close(unlikely, -logits.abs(), rtol=1e-6, atol=0)
    assert (likely <= 0).all()
    assert (likely > -1e-40).all()
    (gradient,) = torch.autograd.grad((likely + unlikely).sum(), logits)
    torch.testing.assert_close(gradient, -logits.detach().sign())
    params = torch.linspace(-30, 30, 61, dtype=dtype)
    both = Bernoulli().log_prob(params, zeros[:1]).exp() + Bernoulli().log_prob(params, ones[:1]).exp()
    torch.testing.assert_close(both, torch.ones_like(both), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_unknown_output_is_named() -> None:
    with pytest.raises(ValueError, match=r"^output must be one of bernoulli.*, got 'poisson'\Z"):
        make_output("poisson")
