"""Sums that are held to a total while drawing: the law of the draws, enumerated, and their weights, on every backend."""

import itertools
from typing import Any

import pytest
import torch
from engines import ENGINES
from models import (
    DOUBLE,
    FALSE_ALARM,
    FEATURES,
    FINITE,
    SINGLE,
    Case,
    cases_of,
    context_of,
    drawn_by,
    enumerated,
    made,
    made_exact,
    masks_of,
    p_value,
    some_allowed,
    states_of,
    valid,
)
from torch import Tensor

from made_fast import MADE, SumTo, backends
from made_fast.outputs import Bernoulli, Categorical, Mixed, Spin
from made_fast.programs.schedule import build_schedule
from made_fast.requests.checks import conditions_of
from made_fast.testing import naive_sample, unexplained_differences

KINDS = ("all", "some", "two", "allowed", "given", "given first", "given and allowed")
SOME = {"mixed_finite-both", "ragged-context", "spin-direct", "bernoulli-random", "mixture_of_logistics-natural"}
HELD = cases_of(FINITE, ["natural", "random", "direct", "context", "both"])


def _total(state: Tensor, variables: Any) -> SumTo:
    return SumTo(int(state[list(variables)].sum()))


def arguments_of(output: str, kind: str, features: int = FEATURES, seed: int = 1) -> dict[str, Any]:
    """Arguments of ``sample`` that a state of this output fits."""
    state = valid(output, 1, seed, features)[0]
    every, some = range(features), (0, *range(2, features))
    observed = torch.arange(features) == 1
    known = {"given": state, "observed": observed}
    last = {features - 1: {float(state[-1]), float(valid(output, 1, 9, features)[0, -1])}}
    return {
        "all": {"allowed": _total(state, every)},
        "some": {"allowed": {some: _total(state, some)}},
        "two": {"allowed": {(0, 1): _total(state, (0, 1)), range(2, features): _total(state, range(2, features))}},
        "allowed": {"allowed": {every: _total(state, every), **last}},
        "given": {**known, "allowed": {every: _total(state, every)}},
        "given first": {"given": state, "observed": torch.arange(features) < 2, "allowed": _total(state, every)},
        "given and allowed": {**known, "allowed": {some: _total(state, some), **last}},
    }[kind]


def kept(states: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Which of some states (S, D) fit."""
    found = torch.ones(len(states), dtype=torch.bool)
    allowed = arguments["allowed"]
    for key, wanted in ({tuple(range(states.shape[1])): allowed} if isinstance(allowed, SumTo) else allowed).items():
        if isinstance(wanted, SumTo):
            found &= states[:, list(key)].sum(1) == wanted.total
        else:
            found &= torch.isin(states[:, key], torch.tensor(sorted(wanted), dtype=states.dtype))
    if "given" in arguments:
        observed = arguments["observed"]
        found &= (states[:, observed] == arguments["given"][observed].to(states)).all(1)
    return found


def held_law(
    model: MADE, arguments: dict[str, Any], context: Tensor | None = None, mask: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """States that fit (S, D), the log of the probability of drawing each, and its log-weight: by looking at all states.

    A variable may be what it is in any state that fits and has what was drawn before; its conditional is renormalised.
    """
    model = made_exact(model)
    states = states_of(model)
    states = states[kept(states, arguments)]
    with torch.no_grad():
        params = model(states, None if context is None else context.double().expand(len(states), -1), mask=mask)
    parts = params.split(list(model.params_per_variable), 1)
    log_q, log_weight = torch.zeros(2, len(states), dtype=DOUBLE)
    observed = arguments.get("observed", torch.zeros(model.features, dtype=torch.bool))
    before: list[int] = []
    for variable in build_schedule(model.program(mask=mask)).variables.tolist():
        conditional = model.conditionals[variable]
        nats = conditional.log_prob(parts[variable], states[:, variable])
        if observed[variable]:
            log_weight += nats
            before.append(variable)
            continue
        values = conditional.values()
        assert values is not None
        every = torch.stack(
            [conditional.log_prob(parts[variable], torch.full((len(states),), float(value))) for value in values], 1
        )
        alike = (states[:, None, before] == states[None, :, before]).all(2)  # (S, S)
        possible = (alike[:, :, None] & (states[None, :, variable, None] == values)).any(1)  # (S, values)
        log_mass = torch.where(possible, every, -torch.inf).logsumexp(1)
        log_q += nats - log_mass
        log_weight += log_mass
        before.append(variable)
    return states, log_q, log_weight


def _places(x: Tensor, states: Tensor) -> Tensor:
    """The number of the state that each row is."""
    same = (x.double()[:, None] == states).all(2)
    assert same.any(1).all(), "every draw fits"
    return same.long().argmax(1)


@drawn_by("allowed", "sums", cases=HELD, quick=SOME, interpreted=())
@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_locally_renormalised_law(backend: str, case: Case, kind: str) -> None:
    """Chi-square against the enumerated law; each weight is the model's probability over that of the draw."""
    model, arguments = case.make(DOUBLE, FEATURES), arguments_of(case.output, kind)
    context, count = context_of(model, 1), 5000
    for mask in masks_of(model):
        states, log_q, log_weight = held_law(model, arguments, context, mask)
        assert log_q.exp().sum().item() == pytest.approx(1)
        found = model.sample_and_log_prob(count, context, mask=mask, seed=3, backend=backend, **arguments)
        x = found.x.reshape(count, FEATURES)
        places = _places(x, states)
        assert (found.log_weight.flatten() - log_weight[places]).abs().max() < 1e-12
        assert p_value(x, states, log_q.exp()) > FALSE_ALARM
        log_prob = made_exact(model).log_prob(
            states, None if context is None else context.expand(len(states), -1), masks=mask
        )
        assert (
            log_prob - log_q - log_weight
        ).abs().max() < 1e-12  # log p - log q, where what is given counts to the weight


@drawn_by("allowed", "sums", cases=HELD, quick=SOME, interpreted=())
@pytest.mark.parametrize("kind", KINDS)
def test_all_draw_alike(backend: str, case: Case, kind: str) -> None:
    """As the naive sampler does, draw for draw; in fp32 too."""
    for dtype in (SINGLE, DOUBLE):
        model, arguments = case.make(dtype), arguments_of(case.output, kind, case.features)
        context = context_of(model, 1)
        found = model.sample_and_log_prob(60, context, seed=5, backend=backend, **arguments)
        expected = naive_sample(model, 60, context, seed=5, **arguments)
        assert not unexplained_differences(model, found.x, context, seed=5, **arguments).any()
        same = (found.x == expected.x).all(-1)
        assert same.float().mean() > 0.9
        torch.testing.assert_close(found.log_weight[same], expected.log_weight[same], rtol=1e-4, atol=1e-4)
        assert kept(found.x.reshape(-1, case.features).double(), arguments).all()


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if engine.backend.name == "cpp"])
def test_every_path_of_the_engine_has_the_same_bits(name: str, dtype: torch.dtype) -> None:
    """Of each instruction set: one row at a time, tiles, tiles of few rows, and rows cut anywhere."""
    engine = ENGINES[name]
    rows_path = ENGINES[name.rsplit("-", 1)[0] + "-rows"]
    for case in (
        Case("mixed_finite", "random"),
        Case("spin", "deep"),
        Case("ragged", "context"),
        Case("bernoulli", "direct"),
    ):
        model = case.make(dtype)
        program, context = model.program(), context_of(model, 1)
        for kind in KINDS:
            request = _conditions(model, arguments_of(case.output, kind, case.features))
            options: dict[str, Any] = {
                "seed": 11,
                "context": context,
                "rows_per_condition": 10**6,
                "conditions": request,
            }
            packed = engine.pack(program)
            whole = _drawn(rows_path, program, packed, 70, **options)
            found = _drawn(engine, program, packed, 70, **options)
            parts = [
                _drawn(engine, program, packed, stop - start, row_offset=start, **options)
                for start, stop in itertools.pairwise((0, 1, 3, 7, 24, 70))
            ]
            for place in range(3):
                assert torch.equal(found[place], whole[place]), (case.name, kind)
                assert torch.equal(torch.cat([part[place] for part in parts]), whole[place]), (case.name, kind)


def _conditions(model: MADE, arguments: dict[str, Any]) -> Any:
    conditions, impossible, _ = conditions_of(
        model.conditionals, arguments.get("given"), arguments.get("observed"), arguments["allowed"], None
    )
    assert conditions is not None and impossible is None
    sequence = build_schedule(model.program()).variables.tolist()
    return conditions.drawn_in(sequence).moved(torch.device("cpu"), next(model.parameters()).dtype)


def _drawn(engine: Any, program: Any, packed: Any, count: int, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    log_weight = torch.full((count,), torch.nan, dtype=program.dtype)
    return *engine.draw(program, count, packed=packed, log_weight=log_weight, **options), log_weight


@drawn_by("allowed", "sums", cases=cases_of(FINITE, ["random", "both"]), quick=SOME, interpreted=())
def test_weighted_means_are_those_of_the_conditional(backend: str, case: Case) -> None:
    """E[f | sum] by self-normalised weights, and P(sum) by their mean, against enumeration: within five errors."""
    model, arguments = case.make(SINGLE, FEATURES), arguments_of(case.output, "all")
    states, log_probs = enumerated(model)
    fits = kept(states, arguments)
    count = 20_000
    drawn = model.sample(count, seed=2, backend=backend, **arguments)
    weight = drawn.log_weight.double().softmax(0)
    exact = log_probs[fits].softmax(0)
    for variable in range(FEATURES):
        value = drawn.x[:, variable].double()
        expected = (exact * states[fits][:, variable]).sum()
        error = (weight.square() * (value - expected).square()).sum().sqrt()
        assert abs((weight * value).sum() - expected) <= 5 * error + 1e-6
    found = model.estimate_probability(arguments["allowed"], count, seed=2, backend=backend)
    assert abs(found.value - log_probs[fits].exp().sum()) <= 5 * found.standard_error + 1e-6


@drawn_by("allowed", "sums", cases=cases_of(FINITE, ["random"]), quick={"ragged-random", "spin-random"}, interpreted=())
def test_whatever_other_queries_hold_to(backend: str, case: Case) -> None:
    """Each of several queries in one request draws what it draws alone; and one after another of the rows."""
    model = case.make(DOUBLE if backend == "reference" else SINGLE, FEATURES)
    own = [
        arguments_of(case.output, kind, seed=seed)["allowed"]
        for kind, seed in zip(KINDS[:4] * 2, range(8), strict=True)
    ]
    queries: list[Any] = [{}, *own, some_allowed(case.output)]
    whole = model.sample(6, seed=5, backend=backend, allowed=queries)
    for row, query in enumerate(queries):
        alone = model.sample(6, seed=5, backend=backend, allowed=query, first_row=6 * row)
        assert torch.equal(alone.x, whole.x[row])
        torch.testing.assert_close(alone.log_weight, whole.log_weight[row], rtol=1e-12, atol=1e-12)


@drawn_by(
    "allowed",
    "sums",
    cases=cases_of(FINITE, ["context", "orders"]),
    quick={"spin-context", "ragged-orders"},
    interpreted=(),
)
def test_what_is_given_differs_by_row(backend: str, case: Case) -> None:
    """Values and places of what is given are a row's own; so are totals, and rows of one pattern share what they can add."""
    model, rows = case.make(DOUBLE, FEATURES), 8
    given = valid(case.output, rows, seed=4)
    observed = torch.rand(rows, FEATURES, generator=torch.Generator().manual_seed(0)) < 0.4
    totals = [SumTo(int(row.sum())) for row in valid(case.output, rows, seed=4)]
    context = context_of(model, rows)
    options: dict[str, Any] = {"seed": 1, "backend": backend, "given": given, "observed": observed}
    drawn = model.sample(5, context, allowed=totals, **options)
    assert torch.equal(drawn.x.sum(-1), given.sum(1, keepdim=True).expand(rows, 5))
    assert torch.equal(
        drawn.x[observed[:, None].expand(drawn.x.shape)],
        given[:, None].expand(drawn.x.shape)[observed[:, None].expand(drawn.x.shape)],
    )
    assert not unexplained_differences(model, drawn.x, context, allowed=totals, **{**options, "backend": "auto"}).any()
    expected = naive_sample(model, 5, context, allowed=totals, seed=1, given=given, observed=observed)
    assert torch.equal(drawn.x, expected.x)
    torch.testing.assert_close(drawn.log_weight, expected.log_weight, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_an_ensemble_draws_every_row_by_its_mask(backend: str) -> None:
    if backends.why_not(
        next(row for row in backends.BACKENDS if row.name == backend), backends.Needs(torch.device("cpu"), SINGLE)
    ):
        pytest.skip(f"{backend} cannot be used here")
    model = made("spin", "both", DOUBLE, 6)
    drawn = model.sample(400, seed=0, allowed=SumTo(2), backend=backend)
    assert (drawn.x.sum(1) == 2).all()
    expected = naive_sample(model, 400, seed=0, allowed=SumTo(2))
    assert torch.equal(drawn.x, expected.x)
    torch.testing.assert_close(drawn.log_weight, expected.log_weight, rtol=1e-12, atol=1e-12)


def test_backends_that_cannot_say_so() -> None:
    model = MADE(4, (8,))
    for row in backends.BACKENDS:
        if row.missing is None and row.features is not None and "sums" not in row.features:
            needs = backends.Needs(torch.device((row.devices or ("cpu",))[0]), SINGLE, features=("sums",))
            assert "has no 'sums' while drawing, only given, allowed" in str(backends.why_not(row, needs))
            if "cpu" in row.devices:
                with pytest.raises(ValueError, match="has no 'sums' while drawing"):
                    model.sample(3, allowed=SumTo(2), backend=row.name)
    assert (model.sample(3, allowed=SumTo(2)).x.sum(1) == 2).all()


def test_long_sums() -> None:
    """Of many variables and of many values: more than one byte of flags, and more than one vector of rows."""
    torch.manual_seed(0)
    for output, features, total in ((Spin(), 100, -14), (Bernoulli(), 70, 33), (Categorical(40), 30, 600)):
        model = MADE(features, (32,), output=output, direct=True)
        drawn = model.sample_and_log_prob(200, seed=0, allowed=SumTo(total))
        assert (drawn.x.sum(1) == total).all() and drawn.log_weight.isfinite().all()
        assert not unexplained_differences(model, drawn.x, seed=0, allowed=SumTo(total)).any()
    mixed = MADE(6, (16,), output=Mixed(["normal", "spin", Categorical(3), "bernoulli", "normal", "spin"]))
    drawn = mixed.sample(500, seed=0, allowed={(1, 2, 3, 5): SumTo(1)})
    assert (drawn.x[:, [1, 2, 3, 5]].sum(1) == 1).all() and len(drawn.x[:, [1, 2, 3, 5]].unique(dim=0)) > 4
