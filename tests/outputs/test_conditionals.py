"""Conditionals against torch.distributions and scipy: densities, draws, temperatures, what is allowed, and the extremes."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from conditional_cases import CASES, EDGES, grid, log_probs_of, pytest_generate_tests, some_params  # noqa: F401 - for pytest
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal

from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.rules import choose_category


def _peer(conditional: Any, params: Tensor) -> Any:
    """The same distribution by another library; of spins that of (x + 1) / 2."""
    match conditional.code:
        case Code.BERNOULLI | Code.SPIN:
            return Bernoulli(logits=params[..., 0])
        case Code.CATEGORICAL:
            return Categorical(logits=params)
        case Code.NORMAL:
            return Normal(params[..., 0], torch.log1p(params[..., 1].exp()) + conditional.floor)
        case _:
            logits, locs, raw = params.split(conditional.components, dim=-1)
            scales = torch.log1p(raw.exp()) + conditional.floor
            return MixtureSameFamily(Categorical(logits=logits), Normal(locs, scales))


def _logistic_levels(conditional: Any, params: Tensor) -> np.ndarray:
    """Probabilities of all levels (..., size) by scipy: the mass between the edges of the bins, the outer ones open."""
    logits, locs, raw = (part.numpy()[..., None] for part in params.split(conditional.components, dim=-1))
    scales, size = np.logaddexp(0, raw) + conditional.floor, conditional.size
    edges = (2 * np.arange(size - 1) + 1) / (size - 1) - 1  # between two levels
    below = scipy.stats.logistic.cdf(edges, locs, scales)
    above = scipy.stats.logistic.sf(edges, locs, scales)
    inner = np.where(edges[1:] < locs, below[..., 1:] - below[..., :-1], above[..., :-1] - above[..., 1:])
    masses = np.concatenate([below[..., :1], inner, above[..., -1:]], -1)
    weights = np.exp(logits - logits.max(-2, keepdims=True))
    return (weights * masses).sum(-2) / weights.sum(-2)


def test_log_prob_is_that_of_other_libraries(conditional: Any) -> None:
    params = some_params(conditional, 40)
    if conditional.code == Code.MIXTURE_OF_LOGISTICS:
        expected = torch.from_numpy(np.log(_logistic_levels(conditional, params)))
        torch.testing.assert_close(log_probs_of(conditional, params), expected, rtol=1e-8, atol=1e-8)
        return
    peer = _peer(conditional, params)
    y = peer.sample((7,))
    x = 2 * y - 1 if conditional.code == Code.SPIN else y
    torch.testing.assert_close(
        conditional.log_prob(params.expand(7, -1, -1), x), peer.log_prob(y), rtol=1e-12, atol=1e-12
    )


def test_finite_probabilities_sum_to_one(finite: Conditional) -> None:
    total = log_probs_of(finite, some_params(finite, 50, scale=4)).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros(50).double(), rtol=0, atol=1e-12)


def test_real_densities_integrate_to_one(real: Conditional) -> None:
    x = torch.linspace(-150, 150, 600_001, dtype=torch.float64)
    for params in some_params(real, 3):
        wider = torch.cat([params[: -real.components or -1], params[-real.components or -1 :].abs()])
        density = real.log_prob(wider, x).exp()
        assert abs(torch.trapezoid(density, x).item() - 1) < 1e-6


def test_cdf_mean_and_mode_of_finite_conditionals(finite: Any) -> None:
    params, values = some_params(finite, 30), finite.values()
    log_probs = log_probs_of(finite, params)
    sums = log_probs.exp().cumsum(-1)
    for place, value in enumerate(values.tolist()):
        found = finite.cdf(params, torch.full((30,), value, dtype=torch.float64))
        torch.testing.assert_close(found, sums[:, place], rtol=1e-9, atol=1e-12)
        between = finite.cdf(params, torch.full((30,), value + 0.25, dtype=torch.float64))
        torch.testing.assert_close(between, sums[:, place], rtol=1e-9, atol=1e-12)
    assert not finite.cdf(params, values[:1].expand(30) - 0.5).any()
    torch.testing.assert_close(finite.cdf(params, values[-1:].expand(30) + 9), torch.ones(30).double())
    assert torch.equal(finite.mode(params), values[log_probs.argmax(-1)])
    if finite.code == Code.CATEGORICAL:
        with pytest.raises(NotImplementedError, match="has no mean"):
            finite.mean(params)
    else:
        torch.testing.assert_close(finite.mean(params), (log_probs.exp() * values).sum(-1), rtol=1e-9, atol=1e-12)


def test_cdf_mean_and_mode_of_real_conditionals(real: Any) -> None:
    params = some_params(real, 30)
    peer, x = _peer(real, params), torch.randn(30).double()
    torch.testing.assert_close(real.cdf(params, x), peer.cdf(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(real.mean(params), peer.mean, rtol=1e-12, atol=1e-12)
    locs = params[:, real.components : 2 * real.components] if real.components else params[:, :1]
    best = peer.log_prob(locs.T).argmax(0)
    assert torch.equal(real.mode(params), locs.gather(1, best[:, None])[:, 0])


@pytest.mark.parametrize("name", ["bernoulli", "spin", "categorical", "one_category", "embedded"])
def test_draws_invert_the_cdf_of_finite_conditionals(name: str) -> None:
    """Categories in order of their numbers, cdf(x - 1) <= u < cdf(x); the high one of two values below its probability."""
    finite, params = CASES[name], some_params(CASES[name], 200)
    uniforms = torch.cat([EDGES, torch.rand(300)])
    uniforms = (uniforms * 2**24).floor() * 2.0**-24
    x = finite.draw(params[:, None], uniforms[None, :, None])
    assert x.shape == (200, len(uniforms))
    assert x.dtype == params.dtype
    u = uniforms.double().expand(200, -1)
    if finite.size == 2:
        high = 1 - finite.cdf(params, torch.full((200,), -0.5, dtype=torch.float64) + (name == "bernoulli"))
        assert torch.equal(x == 1, u < high[:, None])
        return
    wide = params[:, None].expand(-1, len(uniforms), -1)
    above, below = finite.cdf(wide, x), torch.where(x > 0, finite.cdf(wide, x - 1), 0)
    assert ((below <= u + 1e-15) & (u < above + 1e-15)).all()


def test_draws_invert_the_cdf_of_a_normal() -> None:
    normal, params = CASES["normal"], some_params(CASES["normal"], 50)
    uniforms = torch.cat([EDGES, torch.rand(300)])
    x = normal.draw(params[:, None], uniforms[None, :, None])
    loc, scale = params[:, :1], torch.log1p(params[:, 1:].exp()) + 1e-4
    z = torch.from_numpy(scipy.stats.norm.ppf(uniforms.double().numpy() + 2.0**-25))
    torch.testing.assert_close(x, loc + scale * z, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(normal.cdf(params[:, None], x), (uniforms.double() + 2.0**-25).expand(50, -1))


@pytest.mark.parametrize("name", ["mixture_of_normals", "one_normal"])
def test_a_mixture_draws_a_component_and_then_from_it(name: str) -> None:
    mixture: Any = CASES[name]
    params, uniforms, k = some_params(mixture, 500), torch.rand(500, 2), mixture.components
    component = CategoricalConditional(k).draw(params[:, :k], uniforms[:, :1]).long()
    picked = torch.stack([params.gather(1, (part * k + component)[:, None])[:, 0] for part in (1, 2)], 1)
    expected = NormalConditional().draw(picked, uniforms[:, 1:])
    torch.testing.assert_close(mixture.draw(params, uniforms), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["mixture_of_normals", "one_normal", "mixture_of_logistics", "pixels", "two_levels"])
def test_mixtures_follow_their_law(name: str) -> None:
    """Shares over a grid of 300 x 300 uniforms: each edge of a cell is off by 1 / 300 at most, in each component."""
    mixture = CASES[name]
    uniforms = grid(300, 2)
    for params in some_params(mixture, 4):
        x = mixture.draw(params.expand(len(uniforms), -1), uniforms)
        points = torch.linspace(-4, 4, 9).double() if not mixture.size else mixture.values()
        assert points is not None
        found = (x[None] <= points[:, None]).double().mean(1)
        assert ((found - mixture.cdf(params, points)).abs() <= 2.5 / 300).all()


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_temperatures(conditional: Any, temperature: float) -> None:
    """As another set of parameters; a temperature of 1 changes no bit."""
    params, uniforms = some_params(conditional, 400), torch.rand(400, 2)
    plain = conditional.draw(params, uniforms)
    assert torch.equal(conditional.draw(params, uniforms, Decoding(temperature=1.0)), plain)
    warmed, (k, floor) = params.clone(), (conditional.components, conditional.floor)
    if conditional.code in (Code.BERNOULLI, Code.SPIN, Code.CATEGORICAL):
        warmed = warmed / temperature
    else:
        of_scales = math.sqrt(temperature) if conditional.code != Code.MIXTURE_OF_LOGISTICS else temperature
        warmed[:, :k] /= temperature
        raw = warmed[:, 2 * k :] if k else warmed[:, 1:]
        wanted = (torch.nn.functional.softplus(raw) + floor) * of_scales - floor
        raw.copy_(torch.where(wanted > 0, torch.log(torch.expm1(wanted)), torch.nan))
    found, expected = conditional.draw(params, uniforms, Decoding(temperature=temperature)), warmed.isnan().any(1)
    assert expected.float().mean() < 0.7
    torch.testing.assert_close(
        found[~expected], conditional.draw(warmed[~expected], uniforms[~expected]), rtol=1e-9, atol=1e-9
    )
    if conditional.size != 1:
        assert not torch.equal(found, plain)


def test_greedy_takes_the_mode(conditional: Conditional) -> None:
    params = some_params(conditional, 100)
    assert torch.equal(conditional.draw(params, torch.rand(100, 2), Decoding(greedy=True)), conditional.mode(params))
    ties = conditional.draw(torch.zeros(1, conditional.num_params), torch.rand(1, 2), Decoding(greedy=True))
    if conditional.code in (Code.BERNOULLI, Code.SPIN, Code.CATEGORICAL):
        assert ties.item() == conditional.values()[0]  # type: ignore[index]


def _kept_by_hand(probabilities: list[float], top_k: int, top_p: float) -> list[int]:
    order = sorted(range(len(probabilities)), key=lambda k: (-probabilities[k], k))
    order = order[:top_k] if top_k else order
    total, kept, mass = sum(probabilities[k] for k in order), [], 0.0
    for k in order:
        if kept and mass >= top_p * total:
            break
        kept.append(k)
        mass += probabilities[k]
    return kept


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
@pytest.mark.parametrize("top_k", [0, 1, 3, 6, 50])
def test_top_k_and_top_p_keep_the_most_probable(top_k: int, top_p: float, temperature: float) -> None:
    conditional, uniforms = CategoricalConditional(6), grid(2000, 1)
    decoding = Decoding(temperature, top_k=top_k, top_p=top_p)
    tied = torch.tensor([[0.0, 1, 1, 0, 1, -1], [0.0] * 6]).double()
    for params in torch.cat([some_params(conditional, 6), tied]):
        tempered = (params / temperature).softmax(-1)
        kept = _kept_by_hand(params.div(temperature).sub(params.max() / temperature).exp().tolist(), top_k, top_p)
        shares = torch.zeros(6).double()
        shares[kept] = tempered[kept] / tempered[kept].sum()
        x = conditional.draw(params.expand(2000, -1), uniforms, decoding)
        found = torch.bincount(x.long(), minlength=6).double() / 2000
        assert set(x.long().tolist()) <= set(kept)
        assert ((found - shares).abs() <= 2 / 2000).all()


def test_the_categorical_rule() -> None:
    """Running sums in order; never a category of weight 0, whatever the uniform."""
    weights = torch.tensor([[0.0, 2, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1e-30, 0, 1, 1e-30, 0]]).double()
    chosen = choose_category(weights[:, None], EDGES[None])
    assert weights.gather(1, chosen).gt(0).all()
    assert chosen[0].tolist() == [1, 1, 1, 1, 1, 1, 3, 3]
    sums, u = [[0.25, 0.25, 0.5, 1.0]], [0.0, 0.25 - 2**-24, 0.25, 0.5, 1 - 2**-24]
    steps = torch.tensor(sums).diff(prepend=torch.zeros(1, 1))
    assert choose_category(steps, torch.tensor(u)).tolist() == [0, 0, 2, 3, 3]


def test_gradients(conditional: Conditional) -> None:
    params = some_params(conditional, 6).requires_grad_()
    values = conditional.values()
    x = torch.randn(6).double() if values is None else values[torch.arange(6) * (len(values) - 1) // 5]
    assert torch.autograd.gradcheck(lambda params: conditional.log_prob(params, x), (params,))


def test_what_the_network_reads(conditional: Any) -> None:
    values = conditional.values()
    x = torch.randn(5).double() if values is None else values
    if conditional.encoding == Encoding.EMBEDDING:
        assert conditional.units == 2
        return
    units = conditional.encode(x)
    assert units.shape == (len(x), conditional.units)
    if conditional.encoding == Encoding.ONE_HOT:
        assert torch.equal(units, torch.eye(conditional.size).double())
    elif conditional.code == Code.MIXTURE_OF_LOGISTICS:
        torch.testing.assert_close(units[:, 0], torch.linspace(-1, 1, conditional.size).double())
    else:
        assert torch.equal(units[:, 0], x)


def test_decoding_knows_what_it_asks_of_a_backend() -> None:
    assert Decoding().features == Decoding(1, False, 0, 1).features == ()
    assert Decoding(0.5, True, 3, 0.9).features == ("temperature", "greedy", "top_k", "top_p")
