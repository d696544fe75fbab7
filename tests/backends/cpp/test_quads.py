"""Binary inputs four by four: which operations sum them so, and that every path finds the same sums."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from made_fast import MADE, build_config
from made_fast.outputs import Bernoulli, Categorical, Mixed, Normal, Spin
from made_fast.programs.schedule import build_schedule
from made_fast.requests.conditions import Conditions
from made_fast.requests.piece import Piece

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")
if build_config()["compiled"]:
    engine: Any = importlib.import_module("made_fast.backends.cpp.engine")

SEED, ROWS = 2**33 + 7, 101
# Single rows; tiles of few rows, of one vector, of two and of three on every instruction set; as chosen.
PATHS = (1, 2, 4, 7, 12, 16, 32, 48, 0)
_BITS, _SPINS = (Bernoulli(),) * 5, (Spin(),) * 6
MIXED = Mixed([*_BITS, Normal(), *_SPINS, *_BITS, *_BITS, *_SPINS])
CATEGORIES = Mixed(
    [*_BITS, Categorical(3), *_BITS, Categorical(2), Categorical(7), Categorical(4), *_BITS, Categorical(3)]
)
MODELS: dict[str, dict[str, Any]] = {
    "one layer": {"features": 23, "hidden_features": (40,)},
    "direct": {"features": 30, "hidden_features": (33,), "direct": True},
    "belief network": {"features": 19, "hidden_features": (), "direct": True, "order": "random"},
    "residual": {"features": 41, "hidden_features": (24, 24), "residual": True, "direct": True, "order": "random"},
    "narrow": {"features": 40, "hidden_features": (3,)},
    "wide": {"features": 12, "hidden_features": (200,)},
    "random degrees": {"features": 24, "hidden_features": (30, 30), "degrees": "random", "direct": True},
    "context": {"features": 22, "hidden_features": (30,), "context_features": 3, "direct": True},
    "spins": {"features": 26, "hidden_features": (30,), "direct": True, "output": Spin()},
    "mixed": {"features": 28, "hidden_features": (30,), "direct": True, "output": MIXED},
    "beside categories": {"features": 20, "hidden_features": (30, 20), "direct": True, "output": CATEGORIES},
    "not rectified": {"features": 26, "hidden_features": (30, 20), "direct": True, "activation": "tanh"},
}


def _model(dtype: torch.dtype = torch.float32, **options: Any) -> MADE:
    generator = torch.Generator().manual_seed(3)
    model = MADE(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.to(dtype).eval()


def _quads(model: MADE, **options: Any) -> int:
    program = model.program(mask=0) if model.ensemble is not None else model.program()
    return int(engine.pack(program, build_schedule(program), **options).native.quads)


@pytest.mark.parametrize(
    ("features", "options", "expected"),
    [
        (9, {}, 2),
        (8, {}, 2),
        (3, {}, 0),
        (9, {"direct": True}, 4),
        (9, {"output": Spin()}, 2),
        (9, {"num_masks": 2, "mask_conditioning": True}, 2),
        (28, {"output": MIXED}, 3),  # those of spins are not summed beside those of bits
        (7, {"output": Mixed([*_BITS, Categorical(40), Bernoulli()])}, 1),  # beside a category that is looked up
        (9, {"dtype": torch.float64}, 0),
        (9, {"output": Normal()}, 0),
        (9, {"output": Categorical(3)}, 0),
    ],
)
def test_which_are_summed(
    monkeypatch: pytest.MonkeyPatch, features: int, options: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(engine, "LEAST_QUADS", 1)
    assert _quads(_model(features=features, hidden_features=(12,), **options)) == expected


def test_small_models_have_none_and_large_ones_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of what tests are given
    assert _quads(_model(features=40, hidden_features=(16,))) == 0
    assert _quads(_model(features=200, hidden_features=(16,))) == 50
    if engine.has_bf16():
        assert _quads(_model(features=200, hidden_features=(16,)), bf16=True) == 0


def _drawn(packed: Any, features: int, piece: dict[str, Any], **how: Any) -> tuple[Tensor, Tensor]:
    x, log_prob = torch.full((ROWS, features), torch.nan), torch.full((ROWS,), torch.nan)
    engine.draw(packed, x, Piece(seed=SEED, log_prob=log_prob, **piece), **how)
    return x, log_prob


@pytest.mark.parametrize("given", [0, 5, 8, 17], ids=lambda count: f"{count} given")
@pytest.mark.parametrize("name", MODELS)
def test_paths_agree_to_the_bit_and_with_the_definition(monkeypatch: pytest.MonkeyPatch, name: str, given: int) -> None:
    monkeypatch.setattr(engine, "LEAST_QUADS", 1)
    model = _model(**MODELS[name])
    features, program = model.features, model.program()
    context = torch.linspace(-1, 1, 3).repeat(ROWS, 1) if model.context_features else None
    packed = engine.pack(program, build_schedule(program))
    assert packed.native.quads > 0
    piece: dict[str, Any] = {"context": context}
    if given:
        first = model.order.argsort()[: min(given, features - 1)]  # in the order of drawing
        observed = torch.zeros(1, features, dtype=torch.uint8).index_fill(1, first, 1)
        values = model.sample(1, context=None if context is None else context[:1], seed=9).reshape(1, features)
        piece["conditions"] = Conditions(values, observed, None, None, torch.zeros(features, dtype=torch.uint8))
        piece["rows_per_condition"] = ROWS
        piece["context"] = None if context is None else context[:1]
    for isa in build_config()["instruction_sets"]:  # type: ignore[attr-defined]
        x, log_prob = _drawn(packed, features, piece, isa=isa, rows_at_once=1)
        for path in PATHS[1:]:
            found = _drawn(packed, features, piece, isa=isa, rows_at_once=path)
            assert torch.equal(found[0], x), (isa, path)
            assert torch.equal(found[1], log_prob), (isa, path)
        expected = model.double().log_prob(x.double(), context=None if context is None else context.double())
        if not given:
            torch.testing.assert_close(log_prob.double(), expected, rtol=1e-4, atol=1e-4)
        model.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("output", ["bernoulli", "spin"])
def test_what_is_zero_in_a_whole_tile_changes_nothing(dtype: torch.dtype, output: str) -> None:
    """Half of the units never light, a third of the variables never come out 1; in some tiles others do not either."""
    features, hidden = 400, 700
    model = _model(dtype, features=features, hidden_features=(hidden,), output=output, direct=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (model.hidden[0], model.parameters_layer):
            layer.weight.mul_(0.1)
        model.hidden[0].bias[torch.randperm(hidden, generator=generator)[: hidden // 2]] = -100
        model.parameters_layer.bias[: features // 3] = -100
        model.parameters_layer.bias[features // 3 : features // 2] = -5
    program = model.program()
    packed = engine.pack(program, build_schedule(program))
    assert packed.native.panel_macs >= 1 << 18  # else nothing is left out
    assert (packed.native.quads > 0) == (dtype == torch.float32)
    for isa in build_config()["instruction_sets"]:  # type: ignore[attr-defined]
        found = []
        for path in (1, 4, 16, 32, 0):
            x, log_prob = (
                torch.full((ROWS, features), torch.nan, dtype=dtype),
                torch.full((ROWS,), torch.nan, dtype=dtype),
            )
            engine.draw(packed, x, Piece(seed=SEED, log_prob=log_prob), isa=isa, rows_at_once=path)
            found.append((x, log_prob))
        for x, log_prob in found[1:]:
            assert torch.equal(x, found[0][0])
            assert torch.equal(log_prob, found[0][1])
        expected = model.double().log_prob(found[0][0].double())
        torch.testing.assert_close(found[0][1].double(), expected, rtol=1e-4, atol=1e-3)
        model.to(dtype)
