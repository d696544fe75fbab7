"""Output distributions: the table, what follows from conditionals for all variables, descriptions, and the tails."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import outputs
from made_fast.outputs.binary import Bernoulli
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.kinds import OUTPUTS, Mixed, make_output
from made_fast.outputs.mixtures import MixtureOfLogistics
from made_fast.outputs.normal import Normal, NormalConditional
from made_fast.outputs.own import Own

ARGUMENTS: dict[str, dict[str, Any]] = {
    "bernoulli": {},
    "spin": {},
    "categorical": {"sizes": (3, 2, 5, 1)},
    "normal": {"floor": 0.1},
    "mixture_of_normals": {"components": 3},
    "mixture_of_logistics": {"components": 2, "levels": 8},
    "mixed": {"parts": ["spin", ("normal", 2), Categorical(3, embedding=2)]},
}
NUMBERS = [name for name in ARGUMENTS if name not in ("categorical", "mixed")]  # which have means
FINITE = ("bernoulli", "spin", "categorical", "mixture_of_logistics")


@pytest.fixture(params=list(OUTPUTS))
def output(request: pytest.FixtureRequest) -> Any:
    """Every row of the table."""
    return OUTPUTS[request.param](**ARGUMENTS[request.param])


def _params(output: Any, *shape: int) -> Tensor:
    return torch.randn(*shape, sum(output.params_per_variable(4)), dtype=torch.float64)


def test_table_and_names_agree(output: Any) -> None:
    assert type(output) is OUTPUTS[output.name]
    assert make_output(output) is output
    assert len(output.params_per_variable(4)) == len(output.conditionals(4)) == 4
    names = {code.name.lower() for code in Code}
    for each in output.conditionals(4):
        assert each.name in names
        assert each.num_draws >= 1
        assert hash(each) is not None  # equal ones are computed together
    assert output.name in repr(output).lower().replace("of", "_of_") or output.name in ("bernoulli", "spin")


def test_a_description_makes_the_output_again(output: Any) -> None:
    described = json.loads(json.dumps(outputs.describe(output)))
    again = make_output(described)
    assert type(again) is type(output)
    assert again.conditionals(4) == output.conditionals(4)
    assert outputs.describe(again) == outputs.describe(output)


def test_log_prob_is_that_of_the_distribution(output: Any) -> None:
    params = _params(output, 7, 3)
    distribution = output.distribution(params, 4)
    assert distribution.batch_shape == (7, 3)
    assert distribution.event_shape == (4,)
    x = distribution.sample()
    assert x.shape == (7, 3, 4)
    assert distribution.sample((5,)).shape == (5, 7, 3, 4)
    output.check(x)
    found = output.log_prob(params, x)
    assert found.shape == (7, 3, 4)
    torch.testing.assert_close(found.sum(-1), distribution.log_prob(x))
    for value in (output.mode(params, 4), output.cdf(params, x)):
        assert value.shape == (7, 3, 4)
        assert value.isfinite().all()
    output.check(output.mode(params, 4))
    if output.name in NUMBERS:
        assert output.mean(params, 4).shape == (7, 3, 4)
    else:
        with pytest.raises(NotImplementedError, match=r"^CategoricalConditional has no mean\Z"):
            output.mean(params, 4)


def test_draws_of_the_distribution_follow_it(output: Any) -> None:
    """Means and medians of 40,000 draws, within 5 standard errors."""
    params = _params(output).expand(40_000, -1)
    distribution = output.distribution(params, 4)
    x = distribution.sample()
    assert x.dtype == torch.float64
    output.check(x)
    error = x.std(0) / 200 + 1e-9
    if output.name in NUMBERS:
        assert ((x.mean(0) - distribution.mean[0]).abs() < 5 * error).all()
    share = (output.cdf(params, x) >= 0.5).double().mean(0)  # at least half of all draws are at or above the median
    assert (share > 0.5 - 5 * 0.5 / 200).all()


def test_equal_conditionals_that_lie_apart_keep_their_places() -> None:
    mixed = Mixed(["normal", "spin", "normal", Categorical(3), "spin", Normal(0.5)])
    params = torch.randn(5, sum(mixed.params_per_variable(6)), dtype=torch.float64)
    x = torch.tensor([0.5, -1.0, 2.0, 1.0, 1.0, 0.1], dtype=torch.float64).expand(5, -1)
    at, expected = 0, []
    for variable, each in enumerate(mixed.conditionals(6)):
        expected.append(each.log_prob(params[:, at : at + each.num_params], x[:, variable]))
        at += each.num_params
    torch.testing.assert_close(mixed.log_prob(params, x), torch.stack(expected, 1), rtol=1e-14, atol=0)


def test_what_was_first_asked_for_without_gradients_can_be_differentiated_later() -> None:
    mixed = Mixed(["normal", "spin", Normal(0.25), "normal"])
    x = torch.tensor([0.5, 1.0, -0.5, 2.0])
    with torch.inference_mode():
        mixed.log_prob(torch.zeros(7), x)
    params = torch.zeros(7, requires_grad=True)
    mixed.log_prob(params, x).sum().backward()
    assert params.grad is not None and params.grad.isfinite().all()


def test_values_are_those_that_the_variables_can_take(output: Any) -> None:
    if output.name not in FINITE:
        with pytest.raises(ValueError, match=r"^output must be finite .* variable \d is a real number\Z"):
            output.values(4)
        return
    for conditional, values in zip(output.conditionals(4), output.values(4), strict=True):
        assert values.dtype == torch.float64
        assert len(values) == conditional.size
        assert conditional.valid(values).all()


def test_values_it_cannot_take_are_named(output: Any) -> None:
    x = output.mode(_params(output, 3), 4)
    output.check(x)
    output.check(x[:0])
    for bad in (0.5, -2.0, 9.0, torch.nan, torch.inf):
        real = [variable for variable, each in enumerate(output.conditionals(4)) if each.size == 0]
        for variable in range(4):
            if variable in real and abs(bad) < torch.inf:
                continue
            wrong = x.clone()
            wrong[1, variable] = bad
            with pytest.raises(ValueError, match=rf"^x must be .* for output '{output.name}', got {bad}"):
                output.check(wrong)


@pytest.mark.parametrize("bad", [0.5, -1.0, 2.0, torch.nan, torch.inf])
def test_bernoulli_takes_zeros_and_ones_only(bad: float) -> None:
    x = torch.zeros(3, 4)
    Bernoulli().check(x)
    Bernoulli().check(x.bool())
    Bernoulli().check(x[:0])
    x[1, 2] = bad
    with pytest.raises(ValueError, match=rf"^x must be 0 or 1 .*got {bad}; binarize.*\Z"):
        Bernoulli().check(x)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_whole_numbers_of_any_type_can_be_checked(output: Any, dtype: torch.dtype) -> None:
    if output.name in ("bernoulli", "categorical", "mixture_of_logistics"):
        output.check(torch.zeros(3, 4, dtype=dtype))


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
    both = sum(Bernoulli().log_prob(params, each[:1].expand(61)).exp() for each in (zeros, ones))
    torch.testing.assert_close(both, torch.ones_like(both), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_unknown_outputs_are_named() -> None:
    for wrong in ("poisson", None, 3, {}, {"name": "poisson"}, {"name": []}):
        with pytest.raises(ValueError, match=r"^output must be one of bernoulli, .*, got "):
            make_output(wrong)
    for wrong in ("categorical", "mixture_of_normals", {"name": "mixed"}, {"name": "spin", "sizes": 3}):
        with pytest.raises(ValueError, match=r"^output '\w+' needs arguments"):
            make_output(wrong)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *[
            ("sizes", lambda value=value: Categorical(value))
            for value in (0, -1, (), (2, 0), (2.0,), True, "abc", None)
        ],
        *[("embedding", lambda value=value: Categorical(3, value)) for value in (-1, 1.5, True)],
        *[("components", lambda value=value: MixtureOfLogistics(value)) for value in (0, 1.5, True)],
        *[("levels", lambda value=value: MixtureOfLogistics(2, value)) for value in (1, 2.5)],
        *[("floor", lambda value=value: Normal(value)) for value in (0, -1.0, torch.inf, torch.nan, "a", True)],
        *[("parts", lambda value=value: Mixed(value)) for value in ((), "spin", 3, [("spin", 0)], [("spin", 1.5)])],
        ("output", lambda: Mixed(["poisson"])),
        ("conditional", lambda: Own("spin")),  # type: ignore[arg-type]
        ("sizes", lambda: Categorical((2, 3)).conditionals(4)),
        ("parts", lambda: Mixed(["spin"]).conditionals(4)),
    ],
)
def test_wrong_arguments_are_named(name: str, call: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}(\[\d\])? must "):
        call()


class Half(Conditional):
    """A conditional of one's own with nothing but what is asked for."""

    num_params = 1

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return NormalConditional().log_prob(torch.stack([params[..., 0], params[..., 0]], -1), x)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Any = None) -> Tensor:
        return params[..., 0] + uniforms[..., 0]


def test_own_conditionals_are_described_but_not_saved() -> None:
    own = Own(Half())
    assert own.params_per_variable(3) == [1, 1, 1]
    assert "Half" in repr(own)
    assert "Half" in repr(Mixed([own, "spin"]))
    for output in (own, Mixed([own, "spin"])):
        with pytest.raises(ValueError, match=r"^output 'own' cannot be saved"):
            outputs.describe(output)
    for name in ("mean", "mode"):
        with pytest.raises(NotImplementedError, match=rf"^Half has no {name}\Z"):
            getattr(own, name)(torch.zeros(3), 3)
    with pytest.raises(ValueError, match=r"^allowed has no meaning for Half"):
        Half().draw_within(torch.zeros(1), torch.zeros(1), torch.ones(2))
