"""Law 3: naive and cached samplers agree draw for draw on the same seed, on every backend, instruction set and path.

Only a draw whose uniform lies within 1e-5 of its threshold may differ; the test then follows the prefix that differs.
"""

import functools
from typing import Any

import pytest
import torch
from conditions import CONDITIONS, arguments_of, moved_of
from models import SINGLE, Case, context_of, drawn_by, dtypes_of, engines_of, made, masks_of
from torch import Tensor

from made_fast import noise
from made_fast.outputs.decoding import Decoding
from made_fast.sampling.draws import WeightedSamples
from made_fast.testing import naive_sample, unexplained_differences

SEED, FIRST = 11, 2**32 - 9
ROWS, EACH = 40, 5  # of each context or condition 5 rows
DECODINGS = {"cool": Decoding(temperature=0.4), "greedy": Decoding(greedy=True)}


@functools.cache
def _naive(case: Case, dtype: torch.dtype, mask: int, kind: str = "") -> tuple[Tensor, Tensor | None]:
    """40 rows by the definition, and their log-weights under conditions."""
    model = case.make(dtype)
    context, arguments = context_of(model, ROWS // EACH), _arguments(case, kind)
    count = ROWS if context is None and "given" not in arguments and "allowed" not in arguments else EACH
    found = naive_sample(model, count, context, seed=SEED, mask=mask, first_row=FIRST, **arguments)
    if isinstance(found, WeightedSamples):
        return found.x.reshape(-1, model.features), found.log_weight.flatten()
    return found.reshape(-1, model.features), None


def _arguments(case: Case, kind: str) -> dict[str, Any]:
    if kind in DECODINGS:
        return {"temperature": DECODINGS[kind].temperature, "greedy": DECODINGS[kind].greedy}
    return arguments_of(case.output, kind, case.features) if kind else {}


def _close(found: Tensor, expected: Tensor) -> Tensor:
    tolerance = 1e-4 if expected.dtype == SINGLE else 1e-10
    return torch.isclose(found, expected, rtol=tolerance, atol=tolerance)


def _check(backend: str, case: Case, dtype: torch.dtype, kind: str = "") -> None:
    """On every engine of a backend: the rows, and under conditions the weights."""
    model = case.make(dtype)
    context, mask = context_of(model, ROWS // EACH), masks_of(model)[-1]
    arguments, program = _arguments(case, kind), model.program(mask=mask)
    conditions = moved_of(model, arguments, None if context is None else len(context))
    naive, weight = _naive(case, dtype, mask, kind)
    for name, engine in engines_of(backend).items():
        log_weight = None if weight is None else torch.full((len(naive),), torch.nan, dtype=dtype)
        x, _ = engine.draw(
            program,
            len(naive),
            seed=SEED,
            first_row=FIRST,
            context=context,
            rows_per_condition=EACH,
            conditions=conditions,
            decoding=DECODINGS.get(kind),
            log_weight=log_weight,
        )
        same = _close(x, naive).all(1)
        if not same.all():
            shaped = x if context is None and conditions is None else x.reshape(-1, EACH, model.features)
            options = {"seed": SEED, "mask": mask, "first_row": FIRST, **arguments}
            wrong = unexplained_differences(model, shaped, context, **options)
            assert not wrong.any(), (name, dtype, kind)
            assert dtype == SINGLE and (~same).sum() <= 2, (name, dtype, kind)
        if weight is not None and log_weight is not None:
            tolerance = 5e-4 if dtype == SINGLE else 1e-9
            torch.testing.assert_close(log_weight[same], weight[same], rtol=tolerance, atol=tolerance, msg=name)


@drawn_by()
def test_engines(backend: str, case: Case) -> None:
    for dtype in dtypes_of(backend):
        _check(backend, case, dtype)


HELD = {
    "bernoulli-residual_direct_context",
    "categorical-random",
    "mixed_finite-both",
    "normal-context",
    "mixed-residual",
}


@drawn_by("given", "allowed", quick=HELD, interpreted={"mixed-context"})
def test_engines_under_conditions(backend: str, case: Case) -> None:
    for kind in CONDITIONS:
        for dtype in dtypes_of(backend):
            _check(backend, case, dtype, kind)


@drawn_by("temperature", "greedy", quick=HELD, interpreted={"mixed-context"})
def test_engines_decoded(backend: str, case: Case) -> None:
    for kind in DECODINGS:
        for dtype in dtypes_of(backend):
            _check(backend, case, dtype, kind)


@drawn_by(interpreted={"mixed_finite-both"})
def test_samplers(backend: str, case: Case) -> None:
    """What users call; of an ensemble each row by its own mask, and one mask for all."""
    for dtype in dtypes_of(backend):
        model = case.make(dtype)
        context = context_of(model, 3)
        for mask in (None,) if model.ensemble is None else (None, *masks_of(model)[1:]):
            options: dict[str, Any] = {"seed": 3, "first_row": 5, "mask": mask}
            x = model.sample(7, context, backend=backend, **options)
            assert x.shape == ((7, case.features) if context is None else (3, 7, case.features))
            assert x.dtype == dtype
            assert not unexplained_differences(model, x, context, **options).any()
            model.output.check(x)


def test_many_units(build: Any, engine: Any) -> None:
    """More units than a panel, more rows than a tile."""
    model = build(
        {"hidden_features": (150, 90), "direct": True, "order": "random", "context_features": 5}, SINGLE, features=50
    )
    context = context_of(model, 131)
    assert context is not None
    rows, _ = engine.draw(model.program(), 131, seed=5, first_row=3, context=context)
    naive = naive_sample(model, 1, seed=5, first_row=3, context=context).reshape(131, 50)
    assert (rows != naive).any(1).sum() <= 1
    assert not unexplained_differences(model, rows[:, None], context, seed=5, first_row=3).any()


def _flips(shape: torch.Size, share: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) < share


@pytest.mark.parametrize("tolerance", [1e-5, 0.2])
def test_the_check_finds_every_corrupted_draw(tolerance: float) -> None:
    """In a model of independent variables a wrong draw changes no other, so exactly the wrong ones must be found."""
    model = made("bernoulli", "biases", features=9)
    x = naive_sample(model, 500, seed=4, first_row=2**33)
    flips = _flips(x.shape, 0.1)
    uniforms = noise.uniform(4, 2**33 + torch.arange(500)[:, None], model.order.argsort())
    excused = (uniforms - torch.sigmoid(model(x))).abs() <= tolerance
    found = unexplained_differences(model, (x - flips.to(x.dtype)).abs(), seed=4, first_row=2**33, tolerance=tolerance)
    assert torch.equal(found, flips & ~excused)
    assert found.any()
    assert (flips & excused).any() == (tolerance == 0.2)


@pytest.mark.parametrize("option", ["random", "residual_direct_context", "columns"])
def test_the_check_follows_the_prefix(option: str) -> None:
    model = made("bernoulli", option, features=9)
    context = context_of(model, 300)
    x = naive_sample(model, 300 if context is None else 1, seed=4, context=context).reshape(300, -1)
    flips = _flips(x.shape, 0.2)[:, model.order]
    changed = (x - flips.to(x.dtype)).abs()
    found = unexplained_differences(model, changed if context is None else changed[:, None], seed=4, context=context)
    found = found.reshape(x.shape)
    rank = model.order.argsort()
    first = torch.where(flips, rank, model.features).amin(1)  # step of the first flip of each row
    assert not found[rank < first[:, None]].any()
    assert found[rank == first[:, None]].float().mean() > 0.99
    assert not found[first == model.features].any()


def test_the_check_knows_the_masks(build: Any) -> None:
    model = build({"hidden_features": (14, 11), "num_masks": 8})
    x = model.sample(400, seed=4)
    assert not unexplained_differences(model, x, seed=4).any()
    assert unexplained_differences(model, x, seed=4, mask=0).any()
    assert unexplained_differences(model, model.sample(400, seed=4, mask=1), seed=4).any()
    assert not torch.equal(naive_sample(model, 40, seed=4), naive_sample(model, 40, seed=4, mask=0))
