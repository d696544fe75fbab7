"""The laws of an exact autoregressive model and its samplers, for every output and every backend that draws it."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from engines import Engine
from models import (
    FALSE_ALARM,
    FEATURES,
    FINITE,
    OPTIONS,
    OUTPUTS,
    REAL,
    context_of,
    drawn_by,
    dtypes_of,
    engines_for,
    enumerated,
    made,
    p_value,
    states_of,
)
from scipy.stats import kstest
from torch import Tensor

from made_fast import MADE, masks
from made_fast.programs.dependencies import dependencies
from made_fast.programs.program import Program
from made_fast.testing import naive_sample, unexplained_differences

SINGLE, DOUBLE = torch.float32, torch.float64


def _masks_of(model: MADE) -> range:
    return range(1) if model.ensemble is None else model.ensemble.evaluated


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_law_1_jacobian_by_input_units_is_zero_exactly_where_the_order_says(output: str, option: str) -> None:
    model = made(output, option)
    for mask in _masks_of(model):
        program, rank = model.program(mask=mask), masks.rank_of(model.order_of(mask))
        of_units = rank.repeat_interleave(torch.tensor(program.input_units))
        of_params = rank.repeat_interleave(torch.tensor(program.params_per_variable))
        point = 2 * torch.randn(30, len(of_units), dtype=DOUBLE)
        context = torch.randn(30, model.context_features, dtype=DOUBLE)
        jacobian = torch.func.vmap(torch.func.jacrev(functools.partial(_one_row, program), (0, 1)))
        by_units, by_context = (each.abs().amax(0) for each in jacobian(point, context))
        earlier = of_units[None, :] < of_params[:, None]
        assert not by_units[~earlier].any()
        assert (by_context > 0).all(), "context must reach every parameter"
        seen = torch.from_numpy(dependencies(program))
        found = _by_variable(by_units > 0, program)
        assert not (found & ~seen).any()
        if model.activation == "gelu":  # of others some units may be 0 at all points
            assert torch.equal(found, seen)
        assert not (seen & (rank[None, :] >= rank[:, None])).any()
        if model.direct:
            assert torch.equal(by_units > 0, earlier)


def _one_row(program: Program, units: Tensor, context: Tensor) -> Tensor:
    return program.evaluate_units(units[None], context[None])[0]


def _by_variable(found: Tensor, program: Program) -> Tensor:
    """Whether any parameter of a variable (row) has it by any unit of another (column)."""
    rows = torch.stack([part.any(0) for part in found.split(list(program.params_per_variable))])
    return torch.stack([part.any(1) for part in rows.split(list(program.input_units), 1)], 1)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("output", FINITE)
def test_law_2_probabilities_sum_to_one(output: str, option: str) -> None:
    model = made(output, option)
    context = context_of(model, 2)
    states = states_of(model)
    for each in [None] if context is None else list(context):
        for chosen in (None, 0):
            with torch.no_grad():
                total = model.log_prob(states, each, masks=chosen).logsumexp(0)
            assert abs(total.item()) < 1e-12


@pytest.mark.parametrize("option", ["plain", "random", "belief_network", "residual", "orders"])
@pytest.mark.parametrize("output", REAL)
def test_law_2_densities_integrate_to_one(output: str, option: str) -> None:
    """Over two variables; the scales are wide against the step. A kink of the network costs digits, a leak costs more."""
    model = made(output, option, features=2)
    line = torch.linspace(-40, 40, 801, dtype=DOUBLE)
    columns = [line if each.size == 0 else each.values() for each in model.conditionals]
    x = torch.cartesian_prod(*columns)
    with torch.no_grad():
        total = model.log_prob(x).exp().sum() * 0.1 ** sum(each.size == 0 for each in model.conditionals)
    assert abs(total.item() - 1) < 1e-3


@functools.cache
def _naive(output: str, option: str, dtype: torch.dtype, mask: int) -> tuple[Tensor, Tensor]:
    """40 rows by the definition, and their log-probabilities."""
    model = made(output, option, dtype)
    context = context_of(model, 8)
    x = naive_sample(model, 40 if context is None else 5, context, seed=11, mask=mask, first_row=2**32 - 9)
    assert not unexplained_differences(model, x, context, seed=11, mask=mask, first_row=2**32 - 9).any()
    x = x.reshape(40, FEATURES)
    with torch.no_grad():
        return x, model.log_prob(x, _repeated(context), masks=mask)


def _repeated(context: Tensor | None) -> Tensor | None:
    return None if context is None else context.repeat_interleave(5, 0)


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-5 if expected.dtype == SINGLE else 1e-11
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("way", "output"), engines_for())
def test_laws_3_and_5_on_every_engine(way: Engine, output: str) -> None:
    few = way.backend.name == "triton" or way.extra.get("rows_at_once")
    for option in ("context", "residual", "both") if few else OPTIONS:
        for dtype in dtypes_of(way):
            model = made(output, option, dtype)
            context, mask = context_of(model, 8), 0 if model.ensemble is None else 2
            naive, nats = _naive(output, option, dtype, mask)
            program = model.program(mask=mask)
            arguments: dict[str, Any] = {
                "seed": 11,
                "first_row": 2**32 - 9,
                "context": context,
                "rows_per_condition": 5,
            }
            x, log_prob = way.draw(program, 40, packed=way.pack(program), **arguments)
            if not _close(x, naive):
                shaped = x if context is None else x.reshape(8, 5, FEATURES)
                wrong = unexplained_differences(model, shaped, context, seed=11, mask=mask, first_row=2**32 - 9)
                assert not wrong.any(), (option, dtype)
                with torch.no_grad():
                    nats = model.log_prob(x, _repeated(context), masks=mask)
            tolerance = 5e-5 if dtype == SINGLE else 1e-11
            torch.testing.assert_close(log_prob, nats, rtol=tolerance, atol=tolerance, msg=f"{option} {dtype}")


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by(options=["both", "orders", "context"]))
def test_laws_3_and_5_of_samplers(backend: str, output: str, option: str) -> None:
    for dtype in dtypes_of(backend):
        model = made(output, option, dtype)
        context = context_of(model, 6)
        options: dict[str, Any] = {"seed": 3, "first_row": 5}
        x, log_prob = model.sample_and_log_prob(10, context, backend=backend, **options)
        assert x.shape == ((10, FEATURES) if context is None else (6, 10, FEATURES))
        assert x.dtype == log_prob.dtype == dtype
        assert not unexplained_differences(model, x, context, **options).any()
        model.output.check(x)
        with torch.no_grad():
            nats = model.log_prob(x, None if context is None else context[:, None])
        tolerance = 5e-5 if dtype == SINGLE else 1e-11
        torch.testing.assert_close(log_prob, nats, rtol=tolerance, atol=tolerance)
        assert torch.equal(model.sample(10, context, backend=backend, **options), x)


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by(options=["context", "random", "both"]))
def test_law_4_rows_do_not_depend_on_the_request(backend: str, output: str, option: str) -> None:
    """To the bit where rows do not share a matmul, and log-probabilities to rounding in an ensemble."""
    model = made(output, option, DOUBLE if backend == "reference" else SINGLE)
    context, count = context_of(model, 1), 100 if backend != "triton" else 30
    exact = backend != "reference"

    def rows(a: int, b: int) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"seed": 2**40 + 1, "first_row": 2**33 + a, "backend": backend}
        x, log_prob = model.sample_and_log_prob(b - a, context, **options)
        return x.reshape(b - a, FEATURES), log_prob.reshape(b - a)

    x, log_prob = rows(0, count)
    assert len(x.unique(dim=0)) > 5
    for a, b in (
        [(3, 5), (0, 0)] if backend == "triton" else [(0, count), (0, 1), (3, 5), (7, 16), (17, count), (20, 20)]
    ):
        found = rows(a, b)
        assert torch.equal(found[0], x[a:b]) if exact else _close(found[0], x[a:b])
        same = torch.equal(found[1], log_prob[a:b]) if exact and option != "both" else _close(found[1], log_prob[a:b])
        assert same


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by(outputs=FINITE, options=["context", "random", "both"])
)
def test_law_7_samples_follow_the_enumerated_distribution(backend: str, output: str, option: str) -> None:
    model = made(output, option, SINGLE, features=3)
    context, count = context_of(model, 1), 20_000 if backend != "triton" else 4000
    states, log_probs = enumerated(model, context)
    x = model.sample(count, context, seed=21, backend=backend).reshape(count, 3)
    assert p_value(x, states, log_probs.exp()) > FALSE_ALARM
    wrong = x.clone()
    wrong[::5] = states[0].to(wrong)  # the test can fail
    assert p_value(wrong, states, log_probs.exp()) < FALSE_ALARM


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by(outputs=REAL, options=["context", "random", "orders"])
)
def test_law_7_real_variables_follow_their_conditionals(backend: str, output: str, option: str) -> None:
    """What the conditional's cdf makes of each variable is uniform, and so is what it makes of products of two."""
    model = made(output, option)
    context, count = context_of(model, 1), 10_000 if backend != "triton" else 2000
    model = model.to(SINGLE if backend == "triton" else DOUBLE)
    context = None if context is None else context.to(next(model.parameters()))
    x = model.sample(count, context, seed=22, backend=backend, mask=0).reshape(count, FEATURES)
    with torch.no_grad():
        cdf = model.distribution(x, context, mask=0).cdf(x)
    real = [variable for variable, each in enumerate(model.conditionals) if each.size == 0]
    for variable in real:
        assert kstest(cdf[:, variable].double().numpy(), "uniform").pvalue > FALSE_ALARM
        assert kstest((cdf[:, variable].double().numpy()) ** 1.2, "uniform").pvalue < FALSE_ALARM or count < 5000
    for one, other in itertools.pairwise(real):  # independent of each other
        assert kstest(((cdf[:, one] + cdf[:, other]) % 1).double().numpy(), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("backend", "output", "option"), [each for each in drawn_by(options=["both"]) if "triton" not in each.values]
)
def test_threads_at_once(backend: str, output: str, option: str) -> None:
    """Triton's interpreter is not made for that."""
    model = made(output, option, DOUBLE if backend == "reference" else SINGLE)

    def job(seed: int) -> Tensor:
        torch.set_num_threads(1)
        found: Tensor = model.sample(20 * seed + 1, seed=seed, backend=backend)
        return found

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(job, range(8)))
    for seed, found in enumerate(together):
        assert torch.equal(found, job(seed))
