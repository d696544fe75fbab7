"""Other weights packed into the layout of a plan that is there draw, bit for bit, what is packed anew."""

import copy
import importlib
import pickle
import threading
from typing import Any

import pytest
import torch
from models import CASES, Case, context_of, made, masks_of
from torch import Tensor

from made_fast import MADE, build_config
from made_fast.outputs import Bernoulli, Categorical, Mixed
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Program, Term, X
from made_fast.programs.schedule import build_schedule
from made_fast.requests.piece import Piece
from made_fast.sampling.sampler import Sampler

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
if build_config()["compiled"]:
    cpp: Any = importlib.import_module("made_fast.backends.cpp.engine")

PATHS = {"single rows": 1, "tiles": 40, "as chosen": 0}
DTYPES = [torch.float32, torch.float64]


def _other_weights(model: MADE, seed: int = 0) -> MADE:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def _drawn(packed: Any, program: Program, context: Tensor | None, rows: int = 45) -> list[Tensor]:
    """Draws and log-probabilities by every instruction set and path."""
    found = []
    for isa in build_config()["instruction_sets"]:  # type: ignore[attr-defined]
        for rows_at_once in PATHS.values():
            x = torch.full((rows, program.features), torch.nan, dtype=program.dtype)
            log_prob = torch.full((rows,), torch.nan, dtype=program.dtype)
            piece = Piece(seed=3, context=context, log_prob=log_prob)
            cpp.draw(packed, x, piece, isa=isa, rows_at_once=rows_at_once)
            found += [x, log_prob]
    return found


def _assert_equal(packed: Any, fresh: Any, program: Program, context: Tensor | None = None) -> None:
    numbers, expected = cpp.unpack(packed), cpp.unpack(fresh)
    assert torch.equal(numbers, expected)
    assert torch.equal(numbers.signbit(), expected.signbit())
    for ours, theirs in zip(_drawn(packed, program, context), _drawn(fresh, program, context), strict=True):
        assert not ours.isnan().any()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=[] if case.quick else [pytest.mark.slow]) for name, case in CASES.items()],
)
def test_other_weights_draw_what_is_packed_anew(case: Case, dtype: torch.dtype) -> None:
    model = case.make(dtype)
    for mask in masks_of(model):
        program = model.program(mask=mask)
        packed = cpp.pack(program, build_schedule(program))
        for seed in range(3):  # the third is written where the first was
            _other_weights(model, seed)
            masks = None if model.ensemble is None else model.ensemble.of_layers(mask)
            with torch.no_grad():
                packed = cpp.repack(packed, model.tensors_of(masks))
            program = model.program(mask=mask)
            fresh = cpp.pack(program, build_schedule(program))
            _assert_equal(packed, fresh, program, context_of(model, 45))


BESIDE_QUADS = Mixed([Bernoulli()] * 40 + [Categorical(3), Categorical(6)] * 2 + [Bernoulli()] * 39)
SIZES: dict[str, dict[str, Any]] = {
    "as wide as the variables": {"hidden_features": (70, 90)},
    "in another order": {"hidden_features": (130,), "order": "random"},
    "with masks that are no staircase": {"hidden_features": (90, 60), "degrees": "random", "order": "random"},
    "with units that reach no parameter": {"hidden_features": (5, 40, 6), "degrees": "random"},
    "direct": {"hidden_features": (64,), "direct": True, "order": "reversed"},
    "looked up": {"hidden_features": (50,), "output": Categorical(9)},
    "looked up beside quads": {"hidden_features": (60,), "output": BESIDE_QUADS, "direct": True},
    "looked up, direct": {"hidden_features": (50,), "output": Categorical(7), "direct": True, "order": "random"},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_many_blocks_of_rows_in_one_thread_and_in_several(size: str, dtype: torch.dtype) -> None:
    model = MADE(83, **SIZES[size]).to(dtype)
    program = model.program()
    packed = cpp.pack(program, build_schedule(program))
    addresses = [0 if each is None else each.data_ptr() for each in _other_weights(model).tensors_of(None)]
    program = model.program()
    fresh = cpp.pack(program, build_schedule(program))
    for threads in (1, 2, 3):
        native = packed.native.repacked(addresses, threads)
        _assert_equal(packed._replace(native=native), fresh, program)


def test_units_that_are_read_twice_by_one_operation() -> None:
    """Their weights are summed where they are looked up, and kept apart where they are not."""
    torch.manual_seed(0)
    output = Categorical(6)
    first = torch.ones(12, 18, dtype=torch.bool)
    rank = torch.arange(18) // 6
    last = rank[:, None] > torch.zeros(12, dtype=torch.int64)

    def program() -> Program:
        hidden = (rank == 0).expand(12, 18) & first
        terms = tuple(Term(X, torch.randn(12, 18) * hidden, hidden) for _ in range(2))
        ops = (
            Affine((*terms, Term(CONTEXT, torch.randn(12, 2), None)), torch.randn(12)),
            Elementwise(2, "tanh"),
            Affine((Term(3, torch.randn(18, 12) * last, last),), None),
        )
        return Program(3, 2, ops, torch.arange(3), (6, 6, 6), tuple(output.conditionals(3)))

    packed = cpp.pack(one := program(), build_schedule(one))
    other = program()
    context = torch.randn(45, 2)
    fresh = cpp.pack(other, build_schedule(other))
    _assert_equal(cpp.repack(packed, other.tensors), fresh, other, context)
    _assert_equal(cpp.repack(cpp.repack(packed, one.tensors), other.tensors), fresh, other, context)


def test_weights_in_bf16() -> None:
    if not cpp.has_bf16():
        pytest.skip("this processor or build has no bf16 engine")
    model = MADE(70, (50, 60))
    rounded = [model.program().with_rounded_weights(torch.bfloat16), _other_weights(model).program()]
    rounded[1] = rounded[1].with_rounded_weights(torch.bfloat16)
    packed, fresh = (cpp.pack(each, build_schedule(each), bf16=True) for each in rounded)
    _assert_equal(cpp.repack(packed, rounded[1].tensors), fresh, rounded[1])


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite_are_not_packed(number: float, dtype: torch.dtype) -> None:
    """Wherever they are: a mask or a unit that reaches nothing may hide them, which is found out by what packs anew."""
    model = MADE(40, (9, 30, 6), degrees="random", order="random").to(dtype)
    program = model.program()
    packed = cpp.pack(program, build_schedule(program))
    for tensor in model.parameters():
        for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
            before = tensor.data.view(-1)[place].item()
            tensor.data.view(-1)[place] = number
            assert cpp.repack(packed, model.tensors_of(None)) is None
            tensor.data.view(-1)[place] = before
    largest = torch.finfo(dtype).max
    next(model.parameters()).data.view(-1)[:2] = torch.tensor([largest, -largest], dtype=dtype)
    assert cpp.repack(packed, model.tensors_of(None)) is not None


def test_nan_is_refused_as_ever_and_where_masks_hide_it_drawn_from() -> None:
    model, twin = made("bernoulli"), made("bernoulli")
    model.sample(3)
    hidden = ~model.hidden[0].mask  # type: ignore[union-attr]
    for each in (model, twin):
        each.hidden[0].weight.data[hidden] = torch.inf  # type: ignore[union-attr]
    assert torch.equal(model.sample(50, seed=1), twin.sample(50, seed=1))
    model.sample(3)
    model.hidden[0].weight.data[~hidden] = torch.nan  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="weights must be finite to draw samples, found nan or inf in linear layer 0"):
        model.sample(3)


def _step(model: MADE) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("option", ["natural", "random_degrees_context", "residual_direct_context"])
def test_a_model_after_a_step_draws_as_one_that_never_drew(option: str, dtype: torch.dtype) -> None:
    model = made("bernoulli", option, dtype, features=9)
    context = context_of(model, 4)
    before = model.sampler()
    for seed in range(4):
        model.sample(2, context, seed=seed)
        _step(model)
        twin = copy.deepcopy(model)
        assert twin._sampler.last is None
        for rows in (2, 70):
            ours = model.sample_and_log_prob(rows, context, seed=seed)
            theirs = twin.sample_and_log_prob(rows, context, seed=seed)
            assert all(map(torch.equal, ours, theirs))
    assert model.sampler() is not before


def test_samplers_that_somebody_holds_never_change() -> None:
    model = MADE(60, (50, 40), order="random", seed=1)
    held, drawn = [], []
    for number in range(7):
        model.sample(70, seed=0)
        if number != 3:  # of one nobody holds the sampler, and its memory is used again
            held.append(model.sampler())
            drawn.append((held[-1].sample(70, seed=0), held[-1].sample(1, seed=0)))
        _step(model)
    for sampler, (many, one) in zip(held, drawn, strict=True):
        assert torch.equal(sampler.sample(70, seed=0), many)
        assert torch.equal(sampler.sample(1, seed=0), one)
    assert len({tuple(many.flatten().tolist()) for many, _ in drawn}) == len(drawn)


def test_a_draw_that_runs_while_weights_are_packed_again() -> None:
    """Memory is used again only when nobody draws from it any more."""
    model, stop, wrong = MADE(60, (80,), seed=1), threading.Event(), []

    def draw() -> None:
        while not stop.is_set():
            sampler = model.sampler()
            assert isinstance(sampler, Sampler)
            first = sampler.sample(200, seed=0)
            wrong.append(not torch.equal(first, sampler.sample(200, seed=0)))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        _step(model)
        model.sample(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong
    assert not any(wrong)


def test_a_sampler_with_other_weights_has_their_program() -> None:
    model = made("mixed", "residual")
    model.sample(3)
    for _ in range(3):
        _step(model)
        model.sample(3)
        sampler, program = model.sampler(), model.program()
        assert isinstance(sampler, Sampler)
        copies = [pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)]
        for each in (sampler, *copies):
            for ours, theirs in zip(each.program.tensors, program.tensors, strict=True):
                assert (ours is None) == (theirs is None)
                assert ours is None or torch.equal(ours, theirs)  # type: ignore[arg-type]
            assert each.program.device.type == "cpu"
            assert torch.equal(each.sample(20, seed=1), sampler.sample(20, seed=1))
            assert torch.equal(
                each.sample(20, seed=1, backend="reference"), sampler.sample(20, seed=1, backend="reference")
            )
            assert each.dense_macs == program.dense_macs
            assert torch.equal(each.order, program.order)


def test_what_reaches_no_parameter_is_zero_in_the_program_of_a_sampler_with_other_weights() -> None:
    model = MADE(9, (4, 30), degrees="random", seed=2)
    model.sample(3)
    _step(model)
    model.sample(3)
    sampler, x = model.sampler(), torch.ones(3, 9)
    assert isinstance(sampler, Sampler)
    torch.testing.assert_close(sampler.program.evaluate(x), model(x))


def test_kinds_that_change_are_packed_anew() -> None:
    model = made("bernoulli", dtype=torch.float32)
    model.sample(3)
    sampler, double = model.sampler(), made("bernoulli")
    assert isinstance(sampler, Sampler)
    assert sampler.with_weights(double.tensors_of(None)) is None
    assert sampler.with_weights(model.tensors_of(None)[:-1]) is None
    assert Sampler(model.program(), model.output).with_weights(model.tensors_of(None)) is None  # never drawn from
    model.double()
    assert model.sample(3).dtype == torch.float64
    model.hidden[0].bias = None  # type: ignore[union-attr]
    double.hidden[0].bias = None  # type: ignore[union-attr]
    assert torch.equal(model.sample(90, seed=1), double.sample(90, seed=1))
