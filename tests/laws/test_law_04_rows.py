"""Law 4: ``sample(n, seed=s)[a:b] == sample(b - a, seed=s, first_row=a)``, bit for bit on the compiled backends.

For any a and b, threads, tiles, contexts, conditions and pieces: a row depends on the seed and its number alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import torch
from conditions import arguments_of
from engines import names_of
from models import DOUBLE, QUICK, SINGLE, Case, cases_of, context_of, drawn_by, made, some_allowed
from torch import Tensor

from made_fast import MADE
from made_fast.requests.conditions import Between
from made_fast.sampling.draws import ScoredSamples

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
SEED = 2**40 + 1


def _dtype_of(backend: str) -> torch.dtype:
    """fp32 where rows must not depend on their neighbours; matmul in plain torch rounds by batch size, so fp64 there."""
    return DOUBLE if backend == "reference" else SINGLE


def _same(backend: str, found: Tensor, expected: Tensor, exact: bool = True) -> bool:
    """To the bit on compiled backends, to rounding on the reference."""
    if backend != "reference" and exact:
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@drawn_by(quick=QUICK - {"bernoulli-endless"}, interpreted={"mixed-context"})
def test_rows_do_not_depend_on_the_request(set_threads: Any, backend: str, case: Case) -> None:
    """Log-probabilities of an ensemble, made by torch in one batch, to rounding."""
    model = case.make(_dtype_of(backend))
    context, count = context_of(model, 1), 100 if backend != "triton" else 30

    def rows(a: int, b: int) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"seed": SEED, "first_row": 2**33 + a, "backend": backend}
        x, log_prob = model.sample_and_log_prob(b - a, context, **options)
        return x.reshape(b - a, case.features), log_prob.reshape(b - a)

    x, log_prob = rows(0, count)
    assert len(x.unique(dim=0)) > 5
    alone = model.sample(count, context, seed=SEED, first_row=2**33, backend=backend)
    assert torch.equal(alone.reshape(x.shape), x)
    for threads in (1, 3) if backend in ("cpp", "numba") else (1,):
        set_threads(threads)
        for a, b in (
            [(3, 5), (0, 0)] if backend == "triton" else [(0, count), (0, 1), (3, 5), (7, 16), (17, 99), (20, 20)]
        ):
            found = rows(a, b)
            assert _same(backend, found[0], x[a:b]), (threads, a, b)
            assert _same(backend, found[1], log_prob[a:b], model.ensemble is None), (threads, a, b)
    picked = torch.randperm(count)[:17]
    options: dict[str, Any] = {"seed": SEED, "backend": backend, "rows": 2**33 + picked}
    assert _same(backend, model.sample(17, context, **options).reshape(17, -1), x[picked])


WITH_CONTEXT = cases_of(options=["context", "residual_direct_context", "conditioned", "endless"])


@drawn_by(
    cases=WITH_CONTEXT,
    quick={"mixed-residual_direct_context", "bernoulli-context", "categorical-conditioned"},
    interpreted=(),
)
def test_each_context_has_its_own_rows(backend: str, case: Case) -> None:
    """Noise rows are numbered ``first_row + b * num_samples + i``."""
    model = case.make(_dtype_of(backend))
    context = context_of(model, 6)
    assert context is not None
    x, log_prob = model.sample_and_log_prob(11, context, seed=8, first_row=100, backend=backend)
    assert x.shape == (6, 11, case.features)
    assert log_prob.shape == (6, 11)
    for b in range(6):
        alone = model.sample_and_log_prob(11, context[b : b + 1], seed=8, first_row=100 + 11 * b, backend=backend)
        assert _same(backend, alone[0][0], x[b])
        assert _same(backend, alone[1][0], log_prob[b], model.ensemble is None)


def _looser(wanted: Any, conditional: Any) -> Any:
    if not conditional.size:
        return Between(*(None if end is None else 2 * end for end in wanted))
    if isinstance(wanted, Between):
        return Between(low=wanted.low)
    return [*wanted, 0.0 if conditional.valid(torch.zeros(())) else -1.0]


@drawn_by(
    "given",
    "allowed",
    cases=cases_of(options=["context", "both"]),
    quick={"mixed-context", "mixed_finite-both", "ragged-context", "normal-both"},
    interpreted=(),
)
def test_each_condition_has_its_own_rows(backend: str, case: Case) -> None:
    """Row b of N conditions is a request of its own that begins at noise row ``first_row + b * n``."""
    model = case.make(_dtype_of(backend))
    features = case.features
    arguments, context = dict(arguments_of(case.output, "given and allowed", features)), context_of(model, 8)
    query = some_allowed(case.output, features)
    # of all queries the same variables, by other values
    looser = {variable: _looser(wanted, model.conditionals[variable]) for variable, wanted in query.items()}
    arguments["allowed"] = [query if row % 2 else looser for row in range(8)]
    arguments["observed"] = arguments["observed"] & (torch.arange(features) == 1)
    options: dict[str, Any] = {"seed": 5, "backend": backend}
    whole = model.sample_and_log_prob(6, context, first_row=40, **options, **arguments)
    assert isinstance(whole, ScoredSamples)
    for row in (0, 3, 7) if backend != "triton" else (3,):
        own = {name: value[row] for name, value in arguments.items()}
        single = context if context is None else context[row : row + 1]
        found = model.sample_and_log_prob(6, single, first_row=40 + 6 * row, **options, **own)
        for name in ("x", "log_prob", "log_weight"):
            part, expected = getattr(found, name).reshape(getattr(whole, name)[row].shape), getattr(whole, name)[row]
            assert _same(backend, part, expected, name != "log_prob" or model.ensemble is None), name


@drawn_by("allowed", cases=cases_of(options=["random"]), quick={"mixed-random", "ragged-random"}, interpreted=())
def test_whatever_other_queries_restrict(backend: str, case: Case) -> None:
    """Queries of different variables in one request: each draws what it draws alone."""
    model = case.make(_dtype_of(backend))
    query = some_allowed(case.output, case.features)
    queries: list[dict[int, Any]] = [{}, *({variable: wanted} for variable, wanted in query.items())]
    whole = model.sample(6, seed=5, backend=backend, allowed=queries)
    for row, own in enumerate(queries):
        alone = model.sample(6, seed=5, backend=backend, allowed=own, first_row=6 * row)
        assert _same(backend, alone.x, whole.x[row]), row
        assert _same(backend, alone.log_weight, whole.log_weight[row]), row


@drawn_by("temperature", cases=cases_of(options=["context"]), quick={"mixed-context"}, interpreted=())
def test_under_a_temperature(backend: str, case: Case) -> None:
    model = case.make(_dtype_of(backend))
    context = context_of(model, 1)
    options: dict[str, Any] = {"seed": 5, "backend": backend, "temperature": 0.6}
    whole = model.sample(40, context, **options)
    assert _same(backend, model.sample(10, context, first_row=15, **options), whole[:, 15:25])


@drawn_by(cases=cases_of(options=["both"]), quick={"mixed-both"}, triton=False)
def test_python_threads_at_once(backend: str, case: Case) -> None:
    """The first of them also race for the one sampler. Triton's interpreter is not made for that."""
    model = case.make(_dtype_of(backend))

    def job(seed: int) -> Tensor:
        torch.set_num_threads(1)  # each Python thread has its own setting
        found: Tensor = model.sample(20 * seed + 1, seed=seed, backend=backend)
        return found

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(job, range(8)))
    for seed, found in enumerate(together):
        assert torch.equal(found, job(seed))


@pytest.mark.parametrize("backend", [each for each in names_of() if "triton" not in each.values])
def test_python_threads_that_wake_threads(build: Build, set_threads: Any, backend: str) -> None:
    """Large enough for each call to wake threads of its own."""
    large = backend != "reference"
    options = {"hidden_features": (1200 if large else 20,), "direct": True, "order": "random"}
    model = build(options, _dtype_of(backend), features=40 if large else 9)

    def job(seed: int) -> Tensor:
        torch.set_num_threads(2)
        found: Tensor = model.sample(40 * seed + 1, seed=seed, backend=backend)
        return found

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(job, range(8)))
    set_threads(1)
    for seed, found in enumerate(together):
        assert torch.equal(found, job(seed))


@pytest.mark.parametrize("option", ["residual_direct_context", "context_biases"])
def test_pieces_of_a_request_make_the_whole(engine: Any, option: str) -> None:
    """``row_offset`` numbers both noise and contexts, wherever a piece is cut."""
    model = made("bernoulli", option, SINGLE if engine.compiled else DOUBLE, 9)
    program, context = model.program(), context_of(model, 13)
    packed = engine.pack(program)
    shared = {"seed": 9, "first_row": 2**32 - 30, "context": context, "rows_per_condition": 5, "packed": packed}
    x, log_prob = engine.draw(program, 65, **shared)
    assert context is not None
    repeated = context.repeat_interleave(5, 0)
    alone, log_prob_alone = engine.draw(program, 65, **{**shared, "context": repeated, "rows_per_condition": 1})
    assert torch.equal(x, alone)
    assert torch.allclose(log_prob, log_prob_alone, rtol=0 if engine.compiled else 1e-13, atol=0)
    for cuts in ([0, 1, 65], [0, 7, 31, 33, 65], [0, 24, 48, 65]):
        pieces = [engine.draw(program, b - a, row_offset=a, **shared) for a, b in pairwise(cuts)]
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), x)
        joined = torch.cat([piece[1] for piece in pieces])
        assert torch.allclose(joined, log_prob, rtol=0 if engine.compiled else 1e-13, atol=0)


@pytest.mark.parametrize("option", ["direct_deep", "residual_direct_context"])
def test_rows_in_any_order_are_those_of_a_consecutive_draw(engine: Any, option: str) -> None:
    """``rows`` says the noise row of each row; contexts go by ``row_offset`` as before; twice the same row is allowed."""
    model = made("bernoulli", option, SINGLE if engine.compiled else DOUBLE, 9)
    program, packed = model.program(), engine.pack(model.program())
    context, base = context_of(model, 1), 2**32 - 25
    shared = {"seed": 9, "context": context, "packed": packed}
    x, log_prob = engine.draw(program, 70, first_row=base, rows_per_condition=10**6, **shared)
    assert len(x.unique(dim=0)) > 20
    shuffled = torch.randperm(70)
    for picked in (shuffled, shuffled[:1], shuffled[3:36], shuffled[:0], torch.tensor([4, 4, 69, 4, 0])):
        arguments = {"rows": base + picked, "first_row": 77, "row_offset": 13, "rows_per_condition": 10**6}
        found = engine.draw(program, len(picked), **shared, **arguments)
        assert torch.equal(found[0], x[picked])
        assert torch.allclose(found[1], log_prob[picked], rtol=0 if engine.compiled else 1e-13, atol=0)
    far = torch.tensor([7, 3, 1_000_000, 2**61])
    found = engine.draw(program, 4, rows=far, rows_per_condition=4, **shared)
    for index, row in enumerate(far.tolist()):
        alone = engine.draw(program, 1, first_row=row, **shared)
        assert torch.equal(found[0][index], alone[0][0])
        assert torch.allclose(found[1][index], alone[1][0], rtol=0 if engine.compiled else 1e-13, atol=0)


def test_rows_keep_the_contexts_of_their_places(engine: Any) -> None:
    model = made("bernoulli", "residual_direct_context", SINGLE if engine.compiled else DOUBLE, 9)
    program, context = model.program(), context_of(model, 9)
    assert context is not None
    shared = {"seed": 2, "packed": engine.pack(program)}
    rows = torch.randperm(1000)[:63]
    x, _ = engine.draw(program, 63, rows=rows, context=context, rows_per_condition=7, **shared)
    for place in range(0, 63, 5 if engine.backend.name != "triton" else 30):
        each = context[place // 7 : place // 7 + 1]
        assert torch.equal(x[place], engine.draw(program, 1, first_row=int(rows[place]), context=each, **shared)[0][0])
    piece = engine.draw(program, 20, rows=rows[30:50], row_offset=30, context=context, rows_per_condition=7, **shared)
    assert torch.equal(piece[0], x[30:50])


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=["fp32", "fp64"])
def test_the_number_of_rows_at_once_changes_no_bit(engines: dict[str, Any], dtype: torch.dtype) -> None:
    program = made("bernoulli", "direct_deep", dtype, 9).program()
    for name, engine in engines.items():
        if not name.endswith("-chosen"):
            continue
        packed = engine.pack(program)
        expected = engine.draw(program, 130, seed=1, packed=packed, rows_at_once=1)
        for rows_at_once in (0, 2, 3, 8, 9, 16, 24, 47, 48, 49, 96, 130, 1000):
            found = engine.draw(program, 130, seed=1, packed=packed, rows_at_once=rows_at_once)
            assert torch.equal(found[0], expected[0]), (name, rows_at_once)
            assert torch.equal(found[1], expected[1]), (name, rows_at_once)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=["fp32", "fp64"])
@pytest.mark.parametrize("option", ["random", "direct_deep", "residual_direct_context"])
@pytest.mark.parametrize("output", ["bernoulli", "categorical"])
def test_tiles_of_few_rows_change_no_bit(
    engines: dict[str, Any], set_threads: Any, output: str, option: str, dtype: torch.dtype
) -> None:
    """Tiles of up to 8 rows multiply with units in the lanes; 40 variables make several panels that are multiplied ahead."""
    set_threads(1)
    model = made(output, option, dtype, 40)
    program, context = model.program(), context_of(model, 3)
    shared = {"seed": 5, "context": context, "rows_per_condition": 3, "first_row": 11}
    for name, engine in engines.items():
        if not name.endswith("-chosen"):
            continue
        packed = engine.pack(program)
        expected = engine.draw(program, 9, packed=packed, rows_at_once=1, **shared)
        for rows in range(1, 10):
            found = engine.draw(program, rows, packed=packed, rows_at_once=48, **shared)
            assert torch.equal(found[0], expected[0][:rows]), (name, rows)
            assert torch.equal(found[1], expected[1][:rows]), (name, rows)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=["fp32", "fp64"])
def test_the_number_of_threads_changes_no_bit(
    build: Build, make_context: Context, engines: dict[str, Any], set_threads: Any, dtype: torch.dtype
) -> None:
    """Enough rows and units for several threads to be worth waking."""
    options = {"hidden_features": (1200,), "direct": True, "order": "random", "context_features": 2}
    model = build(options, dtype, features=40)
    program, context = model.program(), make_context(model, 100)
    assert context is not None
    shared = {"seed": 1, "context": context, "rows_per_condition": 5}
    for name, engine in engines.items():
        if engine.backend.name not in ("cpp", "numba"):
            continue
        packed = engine.pack(program)
        set_threads(1)
        x, log_prob = engine.draw(program, 500, packed=packed, **shared)
        for threads in (2, 8):
            set_threads(threads)
            found = engine.draw(program, 500, packed=packed, **shared)
            assert torch.equal(found[0], x), (name, threads)
            assert torch.equal(found[1], log_prob), (name, threads)
            rows = torch.arange(500).flip(0)
            turned = engine.draw(program, 500, packed=packed, rows=rows, **{**shared, "context": context.flip(0)})
            assert torch.equal(turned[0].flip(0), x), (name, threads)
            piece = engine.draw(program, 321, packed=packed, row_offset=77, **shared)
            assert torch.equal(piece[0], x[77 : 77 + 321]), (name, threads)
            assert torch.equal(piece[1], log_prob[77 : 77 + 321]), (name, threads)
