"""The own masked autoregressive flow: density, samples, seeds, gradients, state."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import MADE
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.masks.degrees import rank_of
from made_fast.noise import uniform
from made_fast.outputs.normal import Normal
from made_fast.outputs.rules import HALF_STEP

FEATURES = 6
CASES: dict[str, dict[str, Any]] = {
    "one": {"transforms": 1},
    "stack": {"transforms": 3},
    "natural": {"transforms": 2, "order": "natural"},
    "random": {"transforms": 3, "order": "random", "seed": 4},
    "context": {"transforms": 2, "context_features": 2},
    "residual": {"transforms": 2, "hidden_features": (12, 12), "residual": True, "context_features": 2},
    "direct": {"transforms": 2, "direct": True, "activation": "tanh", "degrees": "random"},
    "biases": {"transforms": 2, "hidden_features": (), "context_features": 2},
}


def _flow(name: str, dtype: torch.dtype = torch.float64) -> MaskedAutoregressiveFlow:
    torch.manual_seed(1)
    flow = MaskedAutoregressiveFlow(FEATURES, **{"hidden_features": (16, 12), **CASES[name]})
    return flow.to(dtype)


def _context(flow: MaskedAutoregressiveFlow, rows: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(9)
    if not flow.context_features:
        return None
    return torch.randn(rows, flow.context_features, generator=generator, dtype=next(flow.parameters()).dtype)


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_samples_come_from_their_noise(name: str) -> None:
    """``noise_of`` takes one pass of each network and knows nothing of engines: it gives the noise back."""
    flow = _flow(name)
    context = _context(flow, 40)
    z = torch.randn(40, FEATURES, dtype=torch.float64)
    with torch.no_grad():
        x = flow.inverse(z, context)
        again, log_det = flow.noise_of(x, context)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-11)
    for row in range(3):
        own = None if context is None else context[row]
        jacobian = torch.autograd.functional.jacobian(lambda x, own=own: flow.noise_of(x, own)[0], x[row])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[row])


@pytest.mark.parametrize("backend", ["auto", "reference", "numba"])
def test_sample_is_the_inverse_of_the_noise(name: str, backend: str) -> None:
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-10)):
        flow = _flow(name, dtype)
        context = _context(flow, 5)
        x = flow.sample(7, context, seed=3, backend=backend)
        with torch.no_grad():
            torch.testing.assert_close(x, flow.rsample(7, context, seed=3), rtol=tolerance, atol=tolerance)


def test_one_transform_is_a_made_with_normal_output() -> None:
    flow = _flow("one", torch.float32)
    model = MADE(FEATURES, (16, 12), output=Normal(1e-4))
    model.load_state_dict(flow.networks[0].state_dict())
    assert torch.equal(flow.sample(50, seed=2), model.sample(50, seed=2))
    x = torch.randn(8, FEATURES)
    torch.testing.assert_close(flow.log_prob(x), model.log_prob(x))


def test_noise_is_that_of_the_steps() -> None:
    """The definition: the quantile of the uniform of (seed, row, step), by the order of the first network."""
    flow = _flow("random")
    z, _ = flow.noise_of(flow.rsample(9, seed=3, first_row=4))
    steps = rank_of(flow.networks[0].order)
    uniforms = uniform(3, torch.arange(4, 13)[:, None], steps)
    expected = torch.special.ndtri(uniforms.double() + HALF_STEP)
    torch.testing.assert_close(z.detach(), expected, rtol=0, atol=1e-9)


def test_rows_do_not_depend_on_the_split(name: str) -> None:
    flow = _flow(name, torch.float32)
    context = _context(flow, 1)
    x = flow.sample(60, context, seed=3).reshape(60, FEATURES)
    for start, stop in ((0, 1), (7, 60), (30, 41)):
        part = flow.sample(stop - start, context, seed=3, first_row=start)
        assert torch.equal(part.reshape(-1, FEATURES), x[start:stop])
    rows = torch.tensor([5, 0, 59])
    assert torch.equal(flow.sample(3, context, seed=3, rows=rows).reshape(3, FEATURES), x[rows])
    assert not torch.equal(flow.sample(60, context, seed=4).reshape(60, FEATURES), x)


def test_log_prob_of_samples(name: str) -> None:
    flow = _flow(name)
    context = _context(flow, 3)
    x, log_prob = flow.sample_and_log_prob(4, context, seed=1)
    assert torch.equal(x, flow.sample(4, context, seed=1))
    with torch.no_grad():
        torch.testing.assert_close(log_prob, flow.log_prob(x, None if context is None else context[:, None]))


def test_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    flow = MaskedAutoregressiveFlow(2, 2, (8,), order="reversed").double()
    line = torch.linspace(-9, 9, 601, dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert abs(float(mass) - 1) < 1e-3


@pytest.mark.parametrize("which", ["stack", "context", "residual"])
def test_gradients_of_the_inverse(which: str) -> None:
    flow = _flow(which)
    context = _context(flow, 3)
    z = torch.randn(3, FEATURES, dtype=torch.float64, requires_grad=True)
    inputs: tuple[Any, ...] = (z,) if context is None else (z, context.requires_grad_())
    assert torch.autograd.gradcheck(flow.inverse, inputs)
    weight = flow.networks[0].parameters_layer.bias  # an early transform: the gradient runs through the later ones

    found = torch.autograd.grad(flow.inverse(z, context).sin().sum(), weight)[0]
    for index in (0, 3, 7):
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(flow)
            with torch.no_grad():
                moved.networks[0].parameters_layer.bias[index] += sign * 1e-6
                values.append(moved.inverse(z, context).sin().sum())
        torch.testing.assert_close(found[index], (values[0] - values[1]) / 2e-6, rtol=1e-6, atol=1e-7)


def test_it_learns_and_draws_what_it_has_learned() -> None:
    torch.manual_seed(0)
    flow = MaskedAutoregressiveFlow(2, 2, (32,))
    data = torch.randn(2000, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]) + torch.tensor([1.0, -2.0])
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    stale = flow.sample(10, seed=0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = -flow.log_prob(data).mean()
        loss.backward()
        optimizer.step()
    x = flow.sample(20000, seed=0)
    assert not torch.equal(stale, x[:10])
    torch.testing.assert_close(x.mean(0), data.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(x.T.cov(), data.T.cov(), rtol=0, atol=0.15)


def test_state_restores_orders() -> None:
    flow = _flow("random")
    torch.manual_seed(5)
    other = MaskedAutoregressiveFlow(FEATURES, 3, (16, 12), order="random", seed=77).double()
    assert not torch.equal(flow.sample(5, seed=1), other.sample(5, seed=1))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.sample(5, seed=1), other.sample(5, seed=1))
    assert torch.equal(copy.deepcopy(flow).sample(5, seed=1), flow.sample(5, seed=1))


def test_refusals() -> None:
    for wrong in ({"transforms": 0}, {"order": "raster"}, {"activation": "cosine"}, {"floor": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MaskedAutoregressiveFlow(FEATURES, **wrong)
    with pytest.raises(TypeError, match="num_masks"):
        MaskedAutoregressiveFlow(FEATURES, num_masks=2)
    flow = _flow("context")
    with pytest.raises(ValueError, match="context must have shape"):
        flow.sample(3)
    for draw in (flow.sample, flow.rsample, flow.sample_and_log_prob):
        with pytest.raises(TypeError, match="temperature"):
            draw(3, _context(flow, 2), temperature=0.5)
    with pytest.raises(ValueError, match="z must be finite"):
        flow.inverse(torch.full((2, FEATURES), torch.nan).double(), _context(flow, 2))
    with pytest.raises(ValueError, match="z must have shape"):
        flow.inverse(torch.zeros(2, FEATURES + 1).double(), _context(flow, 2))
