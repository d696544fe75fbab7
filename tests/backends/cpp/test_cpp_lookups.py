"""One-hot variables in the compiled engine: columns of weights looked up, no zeros, the same draws as the reference."""

import importlib
from typing import Any

import pytest
import torch
from drawing import draw_piece
from quick import some
from torch import Tensor

import made_fast
from made_fast import MADE, build_config
from made_fast.backends import reference
from made_fast.outputs.binary import Bernoulli
from made_fast.outputs.categorical import Categorical, CategoricalConditional
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.programs.program import Affine, Elementwise, Program, Term, X
from made_fast.programs.schedule import build_schedule
from made_fast.requests.piece import Piece
from made_fast.testing import unexplained_differences

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")

SIZES = (1, 2, 3, 5, 300, 7, 2000, 6, 40, 5, 11, 9)
TABLE = Mixed(
    [Bernoulli(), Categorical(9), Normal(), Categorical(4), Categorical(30, embedding=3), Categorical(6), Normal()]
    + [Categorical(size) for size in SIZES]
)
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_features": (50, 70)},
    "direct": {"hidden_features": (41,), "direct": True},
    "residual": {"hidden_features": (40, 40, 40), "residual": True, "activation": "gelu"},
    "random masks": {"hidden_features": (37, 53), "order": "random", "degrees": "random"},
    "linear": {"hidden_features": (), "direct": True},
}


def _model(name: str, output: Output, features: int, dtype: torch.dtype) -> MADE:
    torch.manual_seed(1)
    model = MADE(features, output=output, **MODELS[name]).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


@pytest.mark.parametrize("dtype", some([torch.float32, torch.float64], {torch.float32}))
@pytest.mark.parametrize("name", some([*MODELS], {"direct", "random masks"}))
def test_draws_are_the_models(name: str, dtype: torch.dtype, every_isa: str) -> None:
    """Every path gives the same bits, and no draw contradicts the model."""
    model = _model(name, TABLE, 7 + len(SIZES), dtype)
    sampler = model.sampler()
    x, log_prob = sampler.sample_and_log_prob(130, seed=5, backend="cpp")
    assert int(unexplained_differences(model, x, seed=5, tolerance=3e-5).sum()) == 0
    torch.testing.assert_close(log_prob, model.log_prob(x), rtol=1e-4, atol=1e-4)
    for first, last in [(0, 1), (17, 18), (3, 120), (40, 57)]:  # few rows and tiles of several widths
        own, own_log_prob = sampler.sample_and_log_prob(last - first, seed=5, first_row=first, backend="cpp")
        assert torch.equal(own, x[first:last])
        assert torch.equal(own_log_prob, log_prob[first:last])


@pytest.fixture(params=build_config()["instruction_sets"] if build_config()["compiled"] else [])
def every_isa(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MADE_FAST_ISA", request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"direct": True, "order": "random"}], ids=["", "direct"])
@pytest.mark.parametrize("size", [3, 4, 8, 17])
def test_paths_agree_to_the_bit(size: int, options: dict[str, Any], dtype: torch.dtype, every_isa: str) -> None:
    """Single rows, tiles of few rows, of one vector and of more; some panels are wider than a level, some narrower."""
    engine = importlib.import_module("made_fast.backends.cpp.engine")
    torch.manual_seed(size)
    model = MADE(23, (31, 130), output=Categorical(size), **options).to(dtype).eval()
    program = model.program()
    packed = engine.pack(program, build_schedule(program))
    found = []
    for path in (1, 2, 3, 4, 8, 12, 16, 24, 48, 0):
        x, log_prob = (torch.full(shape, torch.nan, dtype=dtype) for shape in [(101, 23), (101,)])
        engine.draw(packed, x, Piece(seed=3, log_prob=log_prob), isa=every_isa, rows_at_once=path)
        found.append((x, log_prob))
    for x, log_prob in found[1:]:
        assert torch.equal(x, found[0][0])
        assert torch.equal(log_prob, found[0][1])
    torch.testing.assert_close(found[0][1], model.log_prob(found[0][0]), rtol=1e-4, atol=1e-4)


def test_given_and_allowed_categories_are_looked_up(every_isa: str) -> None:
    model = _model("plain", Categorical(20), 12, torch.float64)
    torch.manual_seed(2)
    given = torch.randint(20, (60, 12)).double()
    observed = torch.rand(60, 12) < 0.5
    x, log_weight = model.sampler().sample(1, seed=1, given=given, observed=observed, backend="cpp")
    expected, weight = model.sampler().sample(1, seed=1, given=given, observed=observed, backend="reference")
    assert torch.equal(x, expected)
    torch.testing.assert_close(log_weight, weight)


def test_scratch_holds_no_zeros() -> None:
    """200,704 input units; a table of them would take 37 MiB for each thread."""
    cpp = importlib.import_module("made_fast.backends.cpp")
    model = MADE(784, (64,), output=Categorical(256))
    native = cpp.pack(model.program(), model.sampler().schedule).native
    for isa in build_config()["instruction_sets"]:
        assert native.scratch_bytes(isa, 10_000, 2) < 2**20


def test_work_is_a_column_for_each_variable() -> None:
    cpp = importlib.import_module("made_fast.backends.cpp")
    model = MADE(100, (64, 64), output=Categorical(32))
    native = cpp.pack(model.program(), model.sampler().schedule).native
    looked_up = model.hidden[0].mask[:, ::32].sum()
    others = sum(int(layer.mask.sum()) for layer in (model.hidden[1], model.parameters_layer))
    assert looked_up + others <= native.panel_macs <= 1.1 * (looked_up + others)


def _program_with_a_function_of_the_input() -> Program:
    """Units that an elementwise operation reads must be there: tanh(one-hot) and one-hot, both multiplied."""
    torch.manual_seed(0)
    features, size = 5, 8
    owner = torch.arange(features * size) // size
    mask = owner[:, None] > owner
    weights = [torch.randn(mask.shape, dtype=torch.float64) * mask for _ in range(2)]
    ops = (Elementwise(X, "tanh"), Affine((Term(X, weights[0], mask), Term(2, weights[1], mask)), None))
    conditionals = (CategoricalConditional(size),) * features
    return Program(features, 0, ops, torch.arange(features), (size,) * features, conditionals)


def test_units_that_a_function_reads_are_made() -> None:
    cpp = importlib.import_module("made_fast.backends.cpp")
    program = _program_with_a_function_of_the_input()
    schedule = build_schedule(program)
    drawn: list[Tensor] = []
    for engine in (cpp, reference):
        out = torch.empty(90, 5, dtype=torch.float64)
        draw_piece(engine, engine.pack(program, schedule), out, seed=3)
        drawn.append(out)
    assert torch.equal(*drawn)


def test_a_captured_module_looks_up_too() -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            owner = torch.arange(60) // 10
            self.first, self.second = torch.nn.Linear(60, 48), torch.nn.Linear(48, 60)
            degree = torch.arange(48) % 5
            self.masks = (degree[:, None] >= owner).float(), (owner[:, None] > degree).float()

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(torch.nn.functional.linear(x, self.first.weight * self.masks[0], self.first.bias))
            return torch.nn.functional.linear(hidden, self.second.weight * self.masks[1], self.second.bias)

    torch.manual_seed(0)
    sampler = made_fast.accelerate(Table().double().eval(), features=6, output=Categorical(10))
    found, expected = (sampler.sample(200, seed=1, backend=backend) for backend in ("cpp", "reference"))
    assert torch.equal(found, expected)
