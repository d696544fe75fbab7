"""Draws held to given and to allowed values, for every output and every backend that can: laws 3, 4 and 6, and estimates."""

import functools
from typing import Any

import pytest
import torch
from engines import Engine
from models import (
    FALSE_ALARM,
    FEATURES,
    FINITE,
    REAL,
    context_of,
    drawn_by,
    dtypes_of,
    engines_for,
    enumerated,
    inside,
    made,
    p_value,
    some_allowed,
    valid,
)
from torch import Tensor

from made_fast import MADE
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Between, Conditions
from made_fast.sampling.draws import ScoredSamples, WeightedSamples
from made_fast.testing import naive_sample, unexplained_differences

SINGLE, DOUBLE = torch.float32, torch.float64
CONDITIONS = ("given", "allowed", "given and allowed", "one for all")


def _observed(rows: int, share: float = 0.4) -> Tensor:
    return torch.rand(rows, FEATURES, generator=torch.Generator().manual_seed(rows)) < share


@functools.cache
def _conditions(output: str, kind: str, rows: int = 8) -> dict[str, Any]:
    """Arguments of ``sample``: a condition for each row, or one for all of them."""
    given, observed, query = valid(output, rows, seed=4), _observed(rows), some_allowed(output)
    queries = [{}, query, {variable: query[variable] for variable in list(query)[:1]}, dict(list(query.items())[-1:])]
    if kind == "given":
        return {"given": given, "observed": observed}
    if kind == "allowed":
        return {"allowed": [queries[row % 4] for row in range(rows)]}
    if kind == "one for all":
        return {"allowed": query, "given": given[0], "observed": torch.tensor([False, True, False, False])}
    for row in range(rows):
        observed[row] &= ~torch.tensor([variable in queries[row % 4] for variable in range(FEATURES)])
    return {"given": given, "observed": observed, "allowed": [queries[row % 4] for row in range(rows)]}


def _features(kind: str) -> tuple[str, ...]:
    return {"given": ("given",), "allowed": ("allowed",)}.get(kind, ("given", "allowed"))


@functools.cache
def _naive(output: str, option: str, dtype: torch.dtype, mask: int, kind: str) -> WeightedSamples:
    model, arguments = made(output, option, dtype), _conditions(output, kind)
    drawn = naive_sample(model, 5, context_of(model, 8), seed=7, mask=mask, first_row=2**33, **arguments)
    assert isinstance(drawn, WeightedSamples)
    return WeightedSamples(drawn.x.reshape(-1, FEATURES), drawn.log_weight.reshape(-1))


def _weights_of(model: MADE, x: Tensor, kind: str, output: str) -> Tensor:
    """The log-weight that these rows (8 * 5 or 5) should have, from the model's own conditionals in fp64."""
    arguments, rows = _conditions(output, kind), len(x)
    conditions, count = conditions_of(
        model.conditionals, arguments.get("given"), arguments.get("observed"), arguments.get("allowed"), None
    )
    assert conditions is not None
    each = torch.arange(rows) // 5 if count else torch.zeros(rows, dtype=torch.int64)
    exact, total, at = x.double(), torch.zeros(rows, dtype=DOUBLE), 0
    context = context_of(model.double(), 8)
    context = None if context is None else context[torch.arange(rows) // 5]
    with torch.no_grad():
        params = model(exact, context, mask=0)
    for variable, conditional in enumerate(model.conditionals):
        own = params[:, at : at + conditional.num_params]
        at += conditional.num_params
        if conditions.support is not None and conditions.constrained[variable]:
            allowed = conditions.allowed_of(model.conditionals, variable)[each]
            mass = conditional.draw_within(own, torch.full((rows, 2), 0.5), allowed)[1]
        else:
            mass = torch.zeros(rows, dtype=DOUBLE)
        if conditions.observed is not None:
            mass = torch.where(
                conditions.observed[each, variable].bool(), conditional.log_prob(own, exact[:, variable]), mass
            )
        total += mass
    return total


@pytest.mark.parametrize("kind", CONDITIONS)
@pytest.mark.parametrize(("way", "output"), engines_for("given", "allowed"))
def test_law_3_on_every_engine(way: Engine, output: str, kind: str) -> None:
    few = way.backend.name == "triton" or way.extra.get("rows_at_once")
    for option in ("context",) if few else ("context", "residual", "both", "biases"):
        for dtype in dtypes_of(way):
            model = made(output, option, dtype)
            mask, arguments = 0 if model.ensemble is None else 2, _conditions(output, kind)
            context = context_of(model, 8)
            if context is not None or kind != "one for all":
                _drawn_as_the_naive_sampler_does(way, model, output, option, mask, kind, arguments, context)


def _drawn_as_the_naive_sampler_does(
    way: Engine, model: MADE, output: str, option: str, mask: int, kind: str, arguments: dict[str, Any], context: Any
) -> None:
    program, dtype = model.program(mask=mask), next(model.parameters()).dtype
    own = [arguments.get(name) for name in ("given", "observed", "allowed")]
    conditions, _ = conditions_of(model.conditionals, *own, None if context is None else 8)
    assert isinstance(conditions, Conditions)
    naive = _naive(output, option, dtype, mask, kind)
    rows = len(naive.x)
    log_weight = torch.full((rows,), torch.nan, dtype=dtype)
    x, log_prob = way.draw(
        program,
        rows,
        packed=way.pack(program),
        **{"seed": 7, "first_row": 2**33, "context": context, "rows_per_condition": 5},
        conditions=conditions.moved(torch.device("cpu"), dtype),
        log_weight=log_weight,
    )
    tolerance = 5e-5 if dtype == SINGLE else 1e-10
    if not torch.allclose(x, naive.x, rtol=tolerance, atol=tolerance):
        wrong = unexplained_differences(
            model, x.reshape(-1, 5, FEATURES), context, seed=7, mask=mask, first_row=2**33, **arguments
        )
        assert not wrong.any(), (option, dtype)
    same = torch.isclose(x, naive.x, rtol=tolerance, atol=tolerance).all(1)
    torch.testing.assert_close(log_weight[same], naive.log_weight[same], rtol=10 * tolerance, atol=10 * tolerance)
    with torch.no_grad():
        nats = model.log_prob(x, None if context is None else context.repeat_interleave(5, 0), masks=mask)
    torch.testing.assert_close(log_prob, nats, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("given", "allowed", options=["context", "both", "random"])
)
def test_samplers_keep_what_is_given_and_allowed(backend: str, output: str, option: str) -> None:
    """Observed values to the bit, the rest within what is allowed, by the same draw as the naive sampler's."""
    for kind in CONDITIONS:
        for dtype in dtypes_of(backend):
            model, arguments = made(output, option, dtype), _conditions(output, kind)
            context = context_of(model, 8)
            x, log_prob, log_weight = model.sample_and_log_prob(5, context, seed=7, backend=backend, **arguments)
            drawn = model.sample(5, context, seed=7, backend=backend, **arguments)
            assert isinstance(drawn, WeightedSamples)
            assert torch.equal(drawn.x, x)
            assert torch.equal(drawn.log_weight, log_weight)
            assert x.shape == (*log_weight.shape, FEATURES)
            assert log_weight.shape == log_prob.shape == ((5,) if context is None and kind == "one for all" else (8, 5))
            assert not unexplained_differences(model, x, context, seed=7, **arguments).any()
            model.output.check(x)
            if "given" in arguments:
                observed = arguments["observed"][..., None, :].expand(x.shape)
                given = arguments["given"].to(dtype)[..., None, :].expand(x.shape)
                assert torch.equal(x[observed], given[observed])
            queries = arguments.get("allowed", {})
            for row in range(8 if x.ndim == 3 else 1):
                query = queries if isinstance(queries, dict) else queries[row]
                assert inside((x[row] if x.ndim == 3 else x).double(), query).all()
            with torch.no_grad():
                nats = model.log_prob(x, None if context is None else context[:, None])
            torch.testing.assert_close(log_prob, nats, rtol=5e-5, atol=5e-5)
            if model.ensemble is None:
                expected = _weights_of(model, x.reshape(-1, FEATURES), kind, output).reshape(log_weight.shape)
                torch.testing.assert_close(log_weight.double(), expected, rtol=1e-4, atol=1e-4)


def _looser(wanted: Any, conditional: Any) -> Any:
    if not conditional.size:
        return Between(*(None if end is None else 2 * end for end in wanted))
    return (
        Between(low=wanted.low)
        if isinstance(wanted, Between)
        else [*wanted, 0.0 if conditional.valid(torch.zeros(())) else -1.0]
    )


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("given", "allowed", options=["context", "both"]))
def test_law_4_each_condition_has_its_own_rows(backend: str, output: str, option: str) -> None:
    """Row b of N conditions is a request of its own that begins at noise row ``first_row + b * n``; to the bit."""
    model = made(output, option, SINGLE if backend != "reference" else DOUBLE)
    arguments, context = dict(_conditions(output, "given and allowed")), context_of(model, 8)
    query = some_allowed(output)
    # of all queries the same variables, by other values
    looser = {variable: _looser(wanted, model.conditionals[variable]) for variable, wanted in query.items()}
    arguments["allowed"] = [query if row % 2 else looser for row in range(8)]
    arguments["observed"] = arguments["observed"] & (torch.arange(FEATURES) == 1)
    options: dict[str, Any] = {"seed": 5, "backend": backend}
    whole = model.sample_and_log_prob(6, context, first_row=40, **options, **arguments)
    assert isinstance(whole, ScoredSamples)
    for row in (0, 3, 7) if backend != "triton" else (3,):
        own = {name: value[row] for name, value in arguments.items()}
        single = context if context is None else context[row : row + 1]
        found = model.sample_and_log_prob(6, single, first_row=40 + 6 * row, **options, **own)
        for name in ("x", "log_prob", "log_weight"):
            part, expected = getattr(found, name).reshape(getattr(whole, name)[row].shape), getattr(whole, name)[row]
            if backend == "reference" or (name == "log_prob" and option == "both"):
                torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(part, expected), name


@pytest.mark.parametrize(("backend", "output", "option"), drawn_by("allowed", options=["random"]))
def test_law_4_whatever_other_queries_restrict(backend: str, output: str, option: str) -> None:
    """Queries of different variables in one request: each draws what it draws alone, to the bit."""
    model = made(output, option, SINGLE if backend != "reference" else DOUBLE)
    query = some_allowed(output)
    queries: list[dict[int, Any]] = [{}, *({variable: wanted} for variable, wanted in query.items())]
    whole = model.sample(6, seed=5, backend=backend, allowed=queries)
    for row, own in enumerate(queries):
        alone = model.sample(6, seed=5, backend=backend, allowed=own, first_row=6 * row)
        if backend == "reference":
            torch.testing.assert_close(alone.x, whole.x[row], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(alone.log_weight, whole.log_weight[row], rtol=1e-9, atol=1e-9)
        else:
            assert torch.equal(alone.x, whole.x[row]), row
            assert torch.equal(alone.log_weight, whole.log_weight[row]), row


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("given", outputs=FINITE, options=["context", "random"])
)
def test_law_6_what_follows_an_observed_prefix_is_exact(backend: str, output: str, option: str) -> None:
    """Samples follow the enumerated conditional; all weights are the log-probability of what is observed."""
    model = made(output, option, SINGLE, features=3)
    context, count = context_of(model, 1), 10_000 if backend != "triton" else 2000
    states, log_probs = enumerated(model, context)
    for length in (1, 2):
        prefix = model.order[:length]
        observed = torch.zeros(3, dtype=torch.bool).index_fill(0, prefix, True)
        given = states[int(log_probs.argsort()[len(states) // 2])]
        matching = (states[:, prefix] == given[prefix]).all(1)
        log_marginal = log_probs[matching].logsumexp(0)
        drawn = model.sample(count, context, seed=13, given=given, observed=observed, backend=backend)
        expected = torch.where(matching, log_probs - log_marginal, -torch.inf).exp()
        assert p_value(drawn.x.reshape(count, 3), states, expected) > FALSE_ALARM
        torch.testing.assert_close(
            drawn.log_weight.double().flatten(), log_marginal.expand(count), rtol=1e-4, atol=1e-4
        )
        estimate = model.log_marginal(given, observed, 10, context, seed=1, backend=backend)
        torch.testing.assert_close(estimate.value.flatten(), log_marginal[None], rtol=1e-4, atol=1e-4)
        assert estimate.standard_error.max() < 1e-5


def _close_to(estimate: Any, exact: Tensor, slack: float = 1e-5) -> bool:
    error = (estimate.value - exact).abs()
    return bool((error <= 5 * estimate.standard_error + slack).all())


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("given", "allowed", outputs=FINITE, options=["random", "both", "direct"])
)
def test_law_6_weighted_samples_follow_the_conditional(backend: str, output: str, option: str) -> None:
    """What is observed or allowed anywhere: weighted means of indicators, within five standard errors."""
    model = made(output, option, SINGLE, features=3)
    count = 20_000 if backend != "triton" else 2000
    states, log_probs = enumerated(model)
    given, last = states[int(log_probs.argmax())], int(model.order[-1])
    observed = torch.arange(3) == last
    query = some_allowed(output, 3)
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({"given": given, "observed": observed}, states[:, last] == given[last]),
        ({"allowed": query}, inside(states, query)),
        ({"allowed": {last: {float(given[last])}}}, states[:, last] == given[last]),
    ]
    for arguments, matching in cases:
        exact = log_probs[matching].logsumexp(0)
        posterior = torch.where(matching, log_probs - exact, -torch.inf).exp()
        drawn = model.sample(count, seed=17, backend=backend, **arguments)
        weight = drawn.log_weight.double().exp()
        for variable in range(3):
            for value in states[:, variable].unique():
                hit = (drawn.x[:, variable] == value).double()
                share = (weight * hit).sum() / weight.sum()
                error = ((weight * (hit - share)) ** 2).sum().sqrt() / weight.sum()
                wanted = posterior[states[:, variable] == value].sum()
                assert (share - wanted).abs() <= 5 * error + 1e-3, (arguments, variable, value)
        if "given" in arguments:
            assert _close_to(model.log_marginal(given, observed, count, seed=3, backend=backend), exact)
        else:
            estimate = model.estimate_probability(arguments["allowed"], count, seed=3, backend=backend)
            assert _close_to(estimate, exact.exp())


@functools.cache
def _grid(output: str, option: str) -> tuple[Tensor, Tensor]:
    """Points 0.05 apart, with 0 among them, and the probability around each."""
    model = made(output, option, features=2)
    columns = [
        torch.arange(-800, 801).double() * 0.05 if not each.size else each.values() for each in model.conditionals
    ]
    states = torch.cartesian_prod(*columns)
    with torch.no_grad():
        return states, model.log_prob(states).exp() * 0.05 ** sum(not each.size for each in model.conditionals)


@pytest.mark.parametrize(
    ("backend", "output", "option"), drawn_by("given", "allowed", outputs=REAL, options=["random"])
)
def test_law_6_probabilities_of_real_variables(backend: str, output: str, option: str) -> None:
    """Against integrals over two variables, by the trapezoid rule."""
    dtype = SINGLE if backend == "triton" else DOUBLE
    model, (states, probabilities) = made(output, option, features=2), _grid(output, option)
    model, count = model.to(dtype), 4000 if backend != "triton" else 1000
    first, last = model.order.tolist()
    ends = {variable: Between(-0.975, 0.525) for variable in range(2) if not model.conditionals[variable].size}
    other = {variable: {1.0} for variable in range(2) if model.conditionals[variable].size}
    for query in ({**ends, **other}, ends):  # ends lie between two points of the grid
        exact = probabilities[inside(states, query)].sum()
        estimate = model.estimate_probability(query, count, seed=3, backend=backend)
        assert (estimate.value - exact).abs() <= 5 * estimate.standard_error + 2e-3
        assert 0 <= estimate.value <= 1
    given = torch.zeros(2, dtype=dtype)
    density = probabilities[(states[:, last] == 0)].sum() / (0.05 if not model.conditionals[last].size else 1)
    estimate = model.log_marginal(given, torch.arange(2) == last, count, seed=3, backend=backend)
    assert (estimate.value - density.log()).abs() <= 5 * estimate.standard_error + 1e-2
    exact = model.log_marginal(given, torch.arange(2) == first, 7, seed=3, backend=backend)
    assert exact.standard_error < 1e-6
    with torch.no_grad():
        params = model.distribution(given).params
    at = sum(each.num_params for each in model.conditionals[:first])
    own = params[at : at + model.conditionals[first].num_params]
    torch.testing.assert_close(exact.value.float(), model.conditionals[first].log_prob(own, given[first]).float())


def test_a_model_estimates_as_its_sampler_does() -> None:
    model = made("categorical", "both", SINGLE)
    x, observed, query = torch.zeros(FEATURES), torch.arange(FEATURES) == 1, {0: {1, 2}, 2: Between(high=1)}
    for mask in (None, 2):
        sampler = model.sampler(mask=mask)
        found = model.log_marginal(x, observed, 50, seed=3, mask=mask)
        assert found == sampler.log_marginal(x, observed, 50, seed=3)
        probability = model.estimate_probability(query, 50, seed=3, mask=mask)
        assert probability == sampler.estimate_probability(query, 50, seed=3)
    assert model.log_marginal(x, observed, 50, seed=3, mask=0) != found
