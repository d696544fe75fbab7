"""Every backend keeps the contract of ``backends/reference.py``: signatures, memory, pieces, errors of rounding, choice."""

import inspect
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import MADE, backends, build_config
from made_fast.backends import reference
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.own import Own
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Program, Term, X
from made_fast.testing import naive_sample

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
USABLE = [backend for backend in backends.BACKENDS if backend.missing is None]
CPU = torch.device("cpu")


@pytest.fixture(params=USABLE, ids=[backend.name for backend in USABLE])
def module(request: pytest.FixtureRequest) -> Any:
    """The module of every usable backend."""
    return backends.load(request.param)


def test_functions_have_the_names_and_arguments_of_the_reference(module: Any) -> None:
    for name in ("pack", "draw"):
        expected = list(inspect.signature(getattr(reference, name)).parameters.values())
        found = list(inspect.signature(getattr(module, name)).parameters.values())
        for own, theirs in zip(found, expected, strict=False):
            assert (own.name, own.kind, own.default) == (theirs.name, theirs.kind, theirs.default)
        for extra in found[len(expected) :]:
            assert extra.kind is inspect.Parameter.KEYWORD_ONLY
            assert extra.default is not inspect.Parameter.empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_law_10_all_rows_are_written_and_nothing_else(
    build: Build, make_context: Context, every_option: dict[str, Any], engine: Any, dtype: torch.dtype
) -> None:
    model = build(every_option["residual_direct_context"], dtype)
    program, context = model.program(), make_context(model, 52)
    packed, draw = engine.pack(program), backends.load(engine.backend).draw
    assert context is not None
    for rows in (0, 1, 2, 7, 8, 9, 24, 50):
        for with_log_prob in (True, False):
            out = torch.full((rows + 2, model.features), torch.nan, dtype=dtype, device=engine.device)
            log_prob = torch.full((rows + 2,), torch.nan, dtype=dtype, device=engine.device)
            draw(
                packed,
                out[1:-1],
                log_prob[1:-1] if with_log_prob else None,
                seed=3,
                first_row=0,
                context=context.to(engine.device),
                **engine.extra,
            )
            assert ((out[1:-1] == 0) | (out[1:-1] == 1)).all()
            assert out[[0, -1]].isnan().all()
            assert log_prob[1:-1].isfinite().all() if with_log_prob else log_prob[1:-1].isnan().all()
            assert log_prob[[0, -1]].isnan().all()


@pytest.mark.parametrize("name", ["residual_direct_context", "context_biases"])
def test_pieces_of_a_request_make_the_whole(
    build: Build, make_context: Context, every_option: dict[str, Any], engine: Any, name: str
) -> None:
    """``row_offset`` numbers both noise and contexts, wherever a piece is cut."""
    model = build(every_option[name], torch.float32 if engine.compiled else torch.float64)
    program, context = model.program(), make_context(model, 13)
    packed = engine.pack(program)
    shared = {"seed": 9, "first_row": 2**32 - 30, "context": context, "rows_per_condition": 5, "packed": packed}
    x, log_prob = engine.draw(program, 65, **shared)
    repeated = context.repeat_interleave(5, 0)
    alone, log_prob_alone = engine.draw(program, 65, **{**shared, "context": repeated, "rows_per_condition": 1})
    assert torch.equal(x, alone)
    assert torch.allclose(log_prob, log_prob_alone, rtol=0 if engine.compiled else 1e-13, atol=0)
    for cuts in ([0, 1, 65], [0, 7, 31, 33, 65], [0, 24, 48, 65]):
        pieces = [engine.draw(program, b - a, row_offset=a, **shared) for a, b in pairwise(cuts)]
        assert torch.equal(torch.cat([piece[0] for piece in pieces]), x)
        joined = torch.cat([piece[1] for piece in pieces])
        assert torch.allclose(joined, log_prob, rtol=0 if engine.compiled else 1e-13, atol=0)


@pytest.mark.parametrize("name", ["direct_deep", "residual_direct_context"])
def test_rows_in_any_order_are_those_of_a_consecutive_draw(
    build: Build, make_context: Context, every_option: dict[str, Any], engine: Any, name: str
) -> None:
    """``rows`` says the noise row of each row; contexts go by ``row_offset`` as before; twice the same row is allowed."""
    model = build(every_option[name], torch.float32 if engine.compiled else torch.float64)
    program, packed = model.program(), engine.pack(model.program())
    context, base = make_context(model, 1), 2**32 - 25
    shared = {"seed": 9, "context": context, "packed": packed}
    x, log_prob = engine.draw(program, 70, first_row=base, rows_per_condition=10**6, **shared)
    assert len(x.unique(dim=0)) > 20
    shuffled = torch.randperm(70)
    for picked in (shuffled, shuffled[:1], shuffled[:5], shuffled[3:36], shuffled[:0], torch.tensor([4, 4, 69, 4, 0])):
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


def test_rows_keep_the_contexts_of_their_places(
    build: Build, make_context: Context, every_option: dict[str, Any], engine: Any
) -> None:
    model = build(every_option["residual_direct_context"], torch.float32 if engine.compiled else torch.float64)
    program, context = model.program(), make_context(model, 9)
    shared = {"seed": 2, "packed": engine.pack(program)}
    rows = torch.randperm(1000)[:63]
    x, _ = engine.draw(program, 63, rows=rows, context=context, rows_per_condition=7, **shared)
    for place in range(63):
        each = context[place // 7 : place // 7 + 1]
        assert torch.equal(x[place], engine.draw(program, 1, first_row=int(rows[place]), context=each, **shared)[0][0])
    piece = engine.draw(program, 20, rows=rows[30:50], row_offset=30, context=context, rows_per_condition=7, **shared)
    assert torch.equal(piece[0], x[30:50])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_the_number_of_rows_at_once_changes_no_bit(
    build: Build, make_context: Context, every_option: dict[str, Any], engines: dict[str, Any], dtype: torch.dtype
) -> None:
    model = build(every_option["direct_deep"], dtype)
    program = model.program()
    for name, engine in engines.items():
        if not name.endswith("-chosen"):
            continue
        packed = engine.pack(program)
        expected = engine.draw(program, 130, seed=1, packed=packed, rows_at_once=1)
        for rows_at_once in (0, 2, 3, 8, 9, 16, 24, 47, 48, 49, 96, 130, 1000):
            found = engine.draw(program, 130, seed=1, packed=packed, rows_at_once=rows_at_once)
            assert torch.equal(found[0], expected[0]), (name, rows_at_once)
            assert torch.equal(found[1], expected[1]), (name, rows_at_once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_the_number_of_threads_changes_no_bit(
    build: Build, make_context: Context, engines: dict[str, Any], set_threads: Any, dtype: torch.dtype
) -> None:
    """Enough rows and units for several threads to be worth waking."""
    model = build(
        {"hidden_features": (200,), "direct": True, "order": "random", "context_features": 2}, dtype, features=40
    )
    program, context = model.program(), make_context(model, 100)
    shared = {"seed": 1, "context": context, "rows_per_condition": 5}
    for name, engine in engines.items():
        if not engine.compiled:
            continue
        packed = engine.pack(program)
        set_threads(1)
        x, log_prob = engine.draw(program, 500, packed=packed, **shared)
        for threads in (2, 3, 8):
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


@pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
def test_scratch_does_not_grow_with_the_rows(build: Build, engines: dict[str, Any]) -> None:
    model = build({"hidden_features": (64, 64)}, torch.float32)
    for name, engine in engines.items():
        if engine.backend.name == "cpp":
            native = engine.pack(model.program()).native
            sizes = {native.scratch_bytes(engine.extra["isa"], rows, 2) for rows in (10**3, 10**6, 10**9)}
            assert len(sizes) == 1, name
            assert sizes.pop() < 10**6


def _one_coin(function: str, dtype: torch.dtype) -> Program:
    """One variable whose logit is ``function(context)``."""
    one = torch.ones(1, 1, dtype=dtype)
    ops = (Affine((Term(CONTEXT, one, None),), None), Elementwise(2, function), Affine((Term(3, one, None),), None))
    return Program(1, 1, ops, torch.tensor([0]), (1,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "identity"])
def test_law_9_functions_round_as_well_as_torch(engines: dict[str, Any], function: str, dtype: torch.dtype) -> None:
    """Log-probabilities of one coin show the function: relative error at most twice torch's, plus one rounding.

    In fp64 torch itself is all there is to compare with, and a few roundings are allowed.
    """
    points = torch.cat([torch.linspace(-20, 20, 801), torch.tensor([-1e4, -104, -90, -1e-6, 0, 1e-6, 90, 104, 1e4])])
    context = points.to(dtype)[:, None]
    program, exact = _one_coin(function, dtype), torch.float64
    torch_params = FUNCTIONS[function](context)
    true_params = FUNCTIONS[function](context.to(exact))
    for name, engine in engines.items():
        if engine.backend.functions and function not in engine.backend.functions:
            continue  # and it says so, see test_point.py
        x, found = engine.draw(program, len(context), seed=1, context=context)
        sign = (2 * x - 1)[:, 0]
        true = F.logsigmoid(sign.to(exact) * true_params[:, 0])
        scale = true.abs().clamp_min(torch.finfo(dtype).tiny * 1e6)
        error = ((found - true).abs() / scale).max()
        torch_error = ((F.logsigmoid(sign * torch_params[:, 0]) - true).abs() / scale).max()
        few = (
            2e-13 if function == "exp" else 1e-14
        )  # logits to e^6.5 = 700 enter an exponential again, with their rounding
        budget = few if dtype == exact else 2 * torch_error + torch.finfo(dtype).eps
        assert error <= budget, (name, float(error), float(torch_error))


@pytest.mark.parametrize("name", ["deep", "residual_direct_context", "direct_deep"])
def test_law_9_log_prob_rounds_as_well_as_the_reference(
    build: Build, make_context: Context, every_option: dict[str, Any], engines: dict[str, Any], name: str
) -> None:
    model = build(every_option[name], torch.float32)
    context, program = make_context(model, 200), model.program()

    def error(x: Tensor, log_prob: Tensor) -> Tensor:
        double = None if context is None else context.double()
        return (log_prob - build(every_option[name], torch.float64).log_prob(x.double(), double)).abs().max()

    of_reference = error(*engines["reference-cpu"].draw(program, 200, seed=2, context=context))
    for engine_name, engine in engines.items():
        x, log_prob = engine.draw(program, 200, seed=2, context=context)
        rounding = torch.finfo(torch.float32).eps * log_prob.abs().max()
        assert error(x, log_prob) <= 2 * of_reference + rounding, engine_name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_certain_variables_have_finite_log_probabilities(engine: Any, dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e5, -500.0, -30.0, 30.0, 500.0, 1e5], dtype=dtype)
    weight = torch.zeros(6, 6, dtype=dtype)
    program = Program(6, 0, (Affine((Term(X, weight, weight.bool()),), logits),), torch.arange(6), (1,) * 6)
    x, log_prob = engine.draw(program, 50, seed=0)
    assert torch.equal(x, (logits > 0).to(dtype).expand(50, 6))
    assert torch.allclose(log_prob.double(), torch.tensor(-2 * torch.tensor(-30.0).exp().item()).double(), rtol=1e-5)


def test_parameters_that_overflow_are_an_error_everywhere(engine: Any) -> None:
    """A parameter that is nan gives no sample: an error, never rows that look like samples."""
    mask = torch.ones(3, 3).tril(-1).bool()
    eye = torch.eye(3).bool()
    huge = Affine((Term(X, 3e38 * eye.float(), eye),), torch.full((3,), 3e38))
    difference = torch.zeros(3, 3)
    difference[2, :2] = torch.tensor([1.0, -1.0])
    # both hidden units overflow to inf where x = 1, and inf - inf is nan
    params = Affine((Term(2, difference, mask),), torch.tensor([50.0, 50.0, 0.0]))
    program = Program(3, 0, (huge, params), torch.arange(3), (1, 1, 1))
    with pytest.raises(FloatingPointError, match=r"nan"):
        engine.draw(program, 20, seed=0)


class Pair(Conditional):
    """A third-party conditional with two parameters and two uniforms: the sum of two coins."""

    num_params = 2
    num_draws = 2

    def valid(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1) | (x == 2)

    @property
    def expected(self) -> str:
        return "0, 1 or 2"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        a, b = params.sigmoid().unbind(-1)
        return torch.where(x == 0, (1 - a) * (1 - b), torch.where(x == 1, a + b - 2 * a * b, a * b)).log()

    def draw(self, params: Tensor, uniforms: Tensor, decoding: object = None) -> Tensor:
        return (uniforms < params.sigmoid()).sum(-1).to(params.dtype)


@pytest.mark.parametrize("num_masks", [1, 3])
def test_a_conditional_of_ones_own(build: Build, num_masks: int) -> None:
    """One class is enough: variable-major parameters, several uniforms, and only backends that have it."""
    options = {"hidden_features": (20,), "order": "random", "direct": True, "output": Own(Pair())}
    model = build({**options, "num_masks": num_masks}, features=4).eval()
    assert model(torch.zeros(4).double()).shape == (8,)
    states = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 4)
    assert abs(model.log_prob(states).logsumexp(0).item()) < 1e-12
    x, log_prob = model.sample_and_log_prob(400, seed=5, first_row=7)
    assert x.unique().tolist() == [0, 1, 2]
    assert torch.equal(x, naive_sample(model, 400, seed=5, first_row=7))
    assert torch.allclose(log_prob, model.log_prob(x), rtol=1e-12)
    with pytest.raises(ValueError, match=r"^x must be 0, 1 or 2 for output 'own', got 3.0"):
        model.log_prob(torch.full((4,), 3.0).double())
    given, observed = x[0], torch.tensor([True, False, True, False])
    drawn = model.sample(400, seed=5, given=given, observed=observed)
    naive = naive_sample(model, 400, seed=5, given=given, observed=observed)
    assert torch.equal(drawn.x, naive.x)
    torch.testing.assert_close(drawn.log_weight, naive.log_weight)
    with pytest.raises(ValueError, match=r"^allowed\[0\] .*one's own"):
        model.sample(1, allowed={0: {1}})
    with pytest.raises(ValueError, match=r"^top_k and top_p need categorical variables"):
        model.sample(1, top_k=1)
    for backend in USABLE:
        if "own" not in (backend.outputs or ("own",)):
            with pytest.raises(ValueError, match=rf"^backend '{backend.name}' cannot be used: (has no output|needs)"):
                model.sample(1, backend=backend.name)


def test_table_lists_every_backend_best_first() -> None:
    rows = backends.table()
    assert [row.name for row in rows] == [backend.name for backend in backends.BACKENDS]
    assert rows[-1].name == "reference"
    assert rows[-1].usable
    for row in rows:
        assert row.usable == (row.reason is None)
        assert row.summary


def test_auto_takes_the_first_that_can_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="made_fast")
    assert backends.choose("auto", backends.Needs(CPU, torch.float32, outputs=["bernoulli"])) == USABLE[0]
    caplog.clear()
    assert backends.choose("auto", backends.Needs(CPU, torch.float16, outputs=["bernoulli"])).name == "reference"
    for backend in USABLE:
        assert (backend.name == "reference") or f"backend {backend.name} passed over: needs " in caplog.text


def test_a_named_backend_runs_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in backends.BACKENDS:
        for device, dtype in ((CPU, torch.float32), (CPU, torch.bfloat16), (torch.device("cuda"), torch.float32)):
            arguments = {"device": device, "dtype": dtype, "outputs": ["bernoulli"]}
            reason = backends.why_not(backend, backends.Needs(**arguments))
            if reason is None:
                assert backends.choose(backend.name, backends.Needs(**arguments)) is backend
                continue
            with pytest.raises(ValueError, match=rf"^backend '{backend.name}' cannot be used: ") as error:
                backends.choose(backend.name, backends.Needs(**arguments))
            assert str(error.value).endswith(reason)
    monkeypatch.setenv("MADE_FAST_BACKEND", "reference")
    assert backends.choose("auto", backends.Needs(CPU, torch.float32)).name == "reference"
    assert backends.choose(USABLE[0].name, backends.Needs(CPU, torch.float32)) is USABLE[0]
    monkeypatch.setenv("MADE_FAST_BACKEND", "abacus")
    with pytest.raises(ValueError, match=r"^(backend|MADE_FAST_BACKEND) must be .*, got 'abacus'\Z"):
        backends.choose("auto", backends.Needs(CPU, torch.float32))


@pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
def test_the_instruction_set_can_be_chosen(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    cpp = backends.load(next(backend for backend in USABLE if backend.name == "cpp"))
    names = cpp.build_config()["instruction_sets"]
    for name in names:
        monkeypatch.setenv("MADE_FAST_ISA", name)
        assert cpp.build_config()["instruction_set"] == name
        assert build({"hidden_features": (8,)}).sample(3, seed=1).shape == (3, 9)
    monkeypatch.setenv("MADE_FAST_ISA", "abacus")
    with pytest.raises(ValueError, match=r"^MADE_FAST_ISA must be one of .*, got 'abacus'\Z"):
        build({"hidden_features": (8,)}).sample(3)
