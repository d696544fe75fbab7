"""Law 13: masses and probabilities stay in log space: what has a finite log-probability never gets ``-inf``."""

import math
from typing import Any

import pytest
import torch
from conditions import moved_of
from engines import Engine, names_of
from models import DOUBLE, FALSE_ALARM, FEATURES, FINITE, OUTPUTS, SINGLE, dtypes_of, made, p_value
from scipy.stats import kstest
from torch import Tensor

from made_fast import MADE, backends
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.mixtures import MixtureOfLogistics
from made_fast.programs.program import Affine, Program, Term, X
from made_fast.requests.conditions import Between

IDS = {"ids": ["fp32", "fp64"]}
ROWS = 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], **IDS)
def test_certain_variables_have_finite_log_probabilities(engine: Engine, dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e5, -500.0, -30.0, 30.0, 500.0, 1e5], dtype=dtype)
    weight = torch.zeros(6, 6, dtype=dtype)
    program = Program(6, 0, (Affine((Term(X, weight, weight.bool()),), logits),), torch.arange(6), (1,) * 6)
    x, log_prob = engine.draw(program, 50, seed=0)
    assert torch.equal(x, (logits > 0).to(dtype).expand(50, 6))
    assert torch.allclose(log_prob.double(), torch.tensor(-2 * torch.tensor(-30.0).exp().item()).double(), rtol=1e-5)


def _drawn(engine: Engine, model: MADE, allowed: dict[int, Any], rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by the best path of an engine that have to lie in what is allowed; log-probabilities and log-weights in fp64."""
    dtype = next(model.parameters()).dtype
    log_weight = torch.full((rows,), torch.nan, dtype=dtype)
    conditions = moved_of(model, {"allowed": allowed}, None)
    more = {"rows_per_condition": rows, "conditions": conditions, "log_weight": log_weight}
    x, log_prob = engine.draw(model.program(), rows, seed=1, **more)
    return x, log_prob.double(), log_weight.double()


def _params_of(model: MADE, variable: int) -> Tensor:
    """Of a model without hidden units the parameters of one variable, fp64 (K,)."""
    first = sum(each.num_params for each in model.conditionals[:variable])
    bias = model.program().affines[-1].bias
    assert bias is not None
    return bias.detach().double()[first : first + model.conditionals[variable].num_params]


def _far(output: str, dtype: torch.dtype, nats: float) -> MADE:
    """A model of independent variables with parameters of this size."""
    model = made(output, "biases", dtype)
    with torch.no_grad():
        model.parameters_layer.bias.mul_(nats / model.parameters_layer.bias.abs().max())
    return model


@pytest.mark.parametrize("nats", [95.0, 200.0, 3000.0])
@pytest.mark.parametrize("output", FINITE)
def test_values_that_are_improbable_but_possible(engine: Engine, output: str, nats: float) -> None:
    """A log-probability of some hundreds or thousands is that log-weight and that log_prob."""
    for dtype in dtypes_of(engine):
        model = _far(output, dtype, nats)
        for variable, conditional in enumerate(model.conditionals):
            values, params = conditional.values(), _params_of(model, variable)
            assert values is not None
            for value in values[[0, len(values) // 2, -1]].tolist():
                x, log_prob, log_weight = _drawn(engine, model, {variable: {value}}, 2)
                assert (x[:, variable] == value).all()
                assert log_prob.isfinite().all(), (variable, value)
                expected = conditional.log_prob(params, torch.tensor(value, dtype=DOUBLE))
                torch.testing.assert_close(log_weight, expected.expand(2), rtol=1e-4, atol=1e-4)


def _sets(log_probs: Tensor) -> list[list[int]]:
    """Places of values that leave out the most probable one: all others, the two least probable, and those in the middle."""
    order = log_probs.argsort().tolist()
    found = [order[:-1], order[:2], order[len(order) // 4 : -1]]
    return [sorted(places) for places in found if len(places) > 1]


@pytest.mark.parametrize("output", ["categorical", "ragged", "embedding", "mixture_of_logistics", "mixed_finite"])
def test_sets_of_far_values(engine: Engine, output: str) -> None:
    """Their mass is that of all of them, and they are drawn by their shares of it, however far out all of them are."""
    rows = 40 if engine.backend.name == "triton" else 400
    for dtype in dtypes_of(engine):
        for number, conditional in enumerate(OUTPUTS[output].conditionals(FEATURES)):
            values = conditional.values()
            if values is None or conditional.size < 3:
                continue
            model, params = _far(output, dtype, 1.0), torch.zeros(conditional.num_params)
            if conditional.components:
                params = torch.tensor([0.0, 0.3, -0.9, -0.8, -5.5, -5.0])  # whose tails cross all other levels
            else:
                params[: conditional.size] = torch.tensor([-400.0 - k for k in range(conditional.size)])
                params[1] = 0.0
            _set(model, number, params)
            log_probs = conditional.log_prob(_params_of(model, number).expand(conditional.size, -1), values)
            assert log_probs.amin() < -100
            for places in _sets(log_probs):
                x, log_prob, log_weight = _drawn(engine, model, {number: set(values[places].tolist())}, rows)
                assert log_prob.isfinite().all()
                torch.testing.assert_close(
                    log_weight, log_probs[places].logsumexp(0).expand(rows), rtol=1e-5, atol=1e-4
                )
                shares = log_probs[places].softmax(0)
                assert p_value(x[:, number, None], values[places][:, None], shares) > FALSE_ALARM, (number, places)


@torch.no_grad()
def _set(model: MADE, variable: int, params: Tensor) -> None:
    """Parameters (K,) of one variable of a model without hidden units."""
    first = sum(each.num_params for each in model.conditionals[:variable])
    bias = model.parameters_layer.bias
    bias[first : first + len(params)] = params.to(bias)


# Ends in scales of the first component: both tails, far out and very far out, narrow ones, and one that holds the location.
TAILS = [
    *((8.0, 9.0), (-12.0, -11.0), (20.0, None), (None, -15.0), (38.0, 38.5), (-41.0, -40.0), (200.0, None)),
    *((None, -1e3), (5000.0, 5001.0), (0.0, 1e-5), (-1e-6, 1e-6), (30.0, 30.0001), (-1.0, 2.0), (-90.0, 90.0)),
]


@pytest.mark.parametrize("output", ["normal", "mixture_of_normals", "mixed"])
def test_tails_keep_their_mass(engine: Engine, output: str) -> None:
    """Their log-weights, and draws that follow what is left, against the definition in fp64 (which has tests of its own)."""
    number = 1 if output == "mixed" else 0
    for dtype in dtypes_of(engine):
        model = made(output, "biases", dtype)
        conditional, params = model.conditionals[number], _params_of(model, number)
        loc, scale = (float(part.flatten()[0]) for part in conditional.parts(params)[-2:])  # type: ignore[attr-defined]
        for pair in TAILS:
            ends = [None if end is None else float(torch.tensor(loc + end * scale, dtype=dtype)) for end in pair]
            x, log_prob, log_weight = _drawn(engine, model, {number: Between(*ends)})
            assert log_prob.isfinite().all(), (dtype, pair)
            numbers = [-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]]
            bounds = torch.tensor(numbers, dtype=DOUBLE)
            mass = _log_mass(conditional, params, bounds)
            torch.testing.assert_close(log_weight, mass.expand(ROWS), rtol=2e-5 if dtype == SINGLE else 1e-9, atol=1e-6)
            found = x[:, number].double()
            assert ((found >= bounds[0]) & (found <= bounds[1])).all()
            if pair in ((5000.0, 5001.0), (-1e-6, 1e-6), (0.0, 1e-5), (30.0, 30.0001)) and dtype == SINGLE:
                continue  # fp32 has few numbers there
            pairs = torch.stack([bounds[0].expand(ROWS), found], 1)
            shares = (_log_mass(conditional, params, pairs) - mass).exp()
            assert kstest(shares.numpy(), "uniform").pvalue > FALSE_ALARM, (dtype, pair)


def _log_mass(conditional: Any, params: Tensor, bounds: Tensor) -> Tensor:
    """Log of the mass between bounds (..., 2), (...)."""
    shape = bounds.shape[:-1]
    uniforms = torch.full((*shape, 2), 0.5, dtype=DOUBLE)
    mass: Tensor = conditional.draw_within(params.expand(*shape, -1), uniforms, bounds)[1]
    return mass


@pytest.mark.parametrize("end", [1e-40, 1e-44])
def test_denormal_bounds_are_numbers(engine: Engine, end: float) -> None:
    """An interval that a processor takes for nothing where denormal numbers are flushed."""
    if engine.backend.name == "triton":
        pytest.skip("divides by the scale in fp64, but reads bounds as the device does")
    model = made("normal", "biases", SINGLE)
    _set(model, 0, torch.tensor([0.0, 0.5]))
    _, _, log_weight = _drawn(engine, model, {0: Between(0.0, end)}, 3)
    exact = _log_mass(model.conditionals[0], _params_of(model, 0), torch.tensor([0.0, end]).double())
    torch.testing.assert_close(log_weight, exact.expand(3), rtol=1e-6, atol=0)


def test_levels_of_a_logistic_that_is_wider_than_all(engine: Engine) -> None:
    """Of a scale of 1e37 each inner level has 1e-38 of the mass and less, which fp32 calls denormal."""
    model = made("mixture_of_logistics", "biases", SINGLE)
    _set(model, 0, torch.tensor([0.0, 0.0, 0.0, 0.0, 1e38, 2e38]))
    conditional, params = model.conditionals[0], _params_of(model, 0)
    for value in (3.0, 4.0):
        x, log_prob, log_weight = _drawn(engine, model, {0: {value}}, 2)
        assert log_prob.isfinite().all()
        expected = conditional.log_prob(params, torch.tensor(value, dtype=DOUBLE))
        torch.testing.assert_close(log_weight, expected.expand(2), rtol=1e-5, atol=0)
        assert (x[:, 0] == value).all()


TEMPERATURES = [5e-324, 1e-50, 1e-38, 1e-20, 1e20, 1e38, 1e50, 1e300]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_temperatures_of_any_size(engine: Engine, temperature: float) -> None:
    """The coldest draw is the most probable value, the warmest takes any possible one; both have a log-probability."""
    for dtype in dtypes_of(engine):
        for output in ("bernoulli", "categorical", "mixture_of_logistics"):
            model = made(output, "biases", dtype)
            if output == "categorical":
                _set(model, 0, torch.tensor([-math.inf, 0.0, 0.5]))
            x, log_prob = engine.draw(model.program(), ROWS, seed=2, decoding=Decoding(temperature=temperature))
            model.output.check(x)
            assert log_prob.isfinite().all(), (dtype, output)
            modes = model.output.mode(model.program().affines[-1].bias, model.features)  # type: ignore[arg-type]
            if temperature < 1 and output != "mixture_of_logistics":
                assert (x == modes).all(), (dtype, output)
            elif temperature > 1 and output == "categorical":
                assert x[:, 0].unique().tolist() == [1.0, 2.0]
                assert x[:, 1].unique().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("top_p", [1e-50, 1e-42, 1e-30, 1 - 1e-9])
def test_shares_of_any_size(engine: Engine, top_p: float) -> None:
    """However little mass is asked for, the most probable category stays; however much, impossible ones do not."""
    if "top_p" not in (engine.backend.features or ("top_p",)):
        pytest.skip(f"{engine.backend.name} has no top_p")
    for dtype in dtypes_of(engine):
        model = made("categorical", "biases", dtype)
        _set(model, 0, torch.tensor([-math.inf, 0.0, 0.5]))
        for more in ({}, {"top_k": 2}, {"temperature": 1e-50}, {"temperature": 1e50}):
            x, log_prob = engine.draw(model.program(), ROWS, seed=2, decoding=Decoding(top_p=top_p, **more))  # type: ignore[arg-type]
            assert log_prob.isfinite().all(), (dtype, more)
            assert (x[:, 0] > 0).all()
            if top_p < 0.5 and "temperature" not in more:
                modes = model.output.mode(model.program().affines[-1].bias, model.features)  # type: ignore[arg-type]
                assert (x == modes).all(), (dtype, more)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", names_of())
def test_half_precision_models(backend: str, dtype: torch.dtype) -> None:
    """What they sum up is more than half precision can hold, and finite; so is the mass of what is far out."""
    for output in (Categorical(3), MixtureOfLogistics(1, levels=4), "spin"):
        model = MADE(40, hidden_features=(), output=output)
        with torch.no_grad():
            first = model.parameters_layer.bias.zero_().view(40, -1)
            first[:, 0] = 3000.0
        model = model.to(dtype)
        bias = model.parameters_layer.bias.detach().double()
        last = float(model.conditionals[0].values()[1 if output == "spin" else -1])  # type: ignore[index]
        last = -1.0 if output == "spin" else last
        single = model.conditionals[0].log_prob(bias.view(40, -1)[0], torch.tensor(last, dtype=DOUBLE))
        x = torch.full((1, 40), last, dtype=dtype)
        log_prob = model.log_prob(x)
        torch.testing.assert_close(log_prob.double(), 40 * single[None], rtol=1e-3, atol=1e-3)
        if backends.why_not(_row(backend), backends.Needs(torch.device("cpu"), dtype)) and backend != "reference":
            continue
        drawn = model.sample(2, seed=0, backend=backend, allowed={place: {last} for place in range(40)})
        torch.testing.assert_close(drawn.log_weight.double(), (40 * single).expand(2), rtol=1e-3, atol=1e-3)


def _row(backend: str) -> backends.Backend:
    return next(row for row in backends.BACKENDS if row.name == backend)
