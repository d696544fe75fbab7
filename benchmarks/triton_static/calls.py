"""What the Triton backend launches: its own host functions on small CPU tensors, with launches recorded instead of done.

The cases are chosen so that each kernel meets each of its configurations, precisions and modes; an activation function is
seen where it costs most registers. Sizes are multiples of 16 with one exception each, since they are compiled differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from benchmarks.precision import precision
from benchmarks.triton_static import matmul_calls
from made_fast import MADE
from made_fast.backends.triton import draw, pack
from made_fast.backends.triton.drawing.sizes import ASKED, SAMPLER, VARIABLES, Tile
from made_fast.backends.triton.launch import Launch, recorded
from made_fast.outputs import (
    Categorical,
    Decoding,
    Mixed,
    MixtureOfLogistics,
    MixtureOfNormals,
    Normal,
    Output,
    Spin,
)
from made_fast.programs import build_schedule
from made_fast.requests import Between, Conditions, Piece
from made_fast.requests.checks import conditions_of

Call = Callable[[], object]
# Enough units for three outer blocks: a first, one between and a last.
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (64, {"hidden_features": (640, 640), "activation": "relu"}),
    "direct": (64, {"hidden_features": (128,), "direct": True, "activation": "tanh"}),
    "residual": (64, {"hidden_features": (128, 128), "residual": True, "activation": "gelu"}),
    "context": (50, {"hidden_features": (70,), "context_features": 3, "activation": "softplus"}),
}
# Every conditional in one network.
KINDS = ("bernoulli", Spin(), Categorical(40), Categorical(5, embedding=2), Normal())
MIXED = Mixed([(kind, 8) for kind in (*KINDS, MixtureOfNormals(20), MixtureOfLogistics(5))])


def recorded_calls() -> list[list[Launch]]:
    """For each case, what it launches."""
    calls = chain(_sampler_calls(), _variable_calls(), matmul_calls.calls())
    return [_recorded(call) for call in calls]


def _recorded(call: Call) -> list[Launch]:
    with recorded() as launches:
        call()
    return launches


def _sampler_calls() -> Iterator[Call]:
    """The plain model in every mode, configuration and precision; the others in one mode, with and without row numbers."""
    for name, (features, options) in MODELS.items():
        model = MADE(features, **options)
        program = model.program()
        packed = pack(program, build_schedule(program))

        def call(
            count: int,
            *,
            packed: Any = packed,
            width: int = features,
            log_prob: bool = True,
            rows: Tensor | None = None,
            context: Tensor | None = None,
            **more: Any,
        ) -> Call:
            nats = torch.empty(count) if log_prob else None
            piece = Piece(seed=0, rows=rows, context=context, log_prob=nats)
            return partial(draw, packed, torch.empty(count, width), piece, **more)

        for multiplies, tile in ((unit, tile) for unit, tiles in SAMPLER.items() for tile in tiles):
            config, count = tile.config, 2 * tile.config["R"]
            with precision(multiplies):
                if name == "context":
                    yield call(count, config=config, mode="one", context=torch.zeros(count, model.context_features))
                elif name != "plain":
                    yield call(count, config=config, mode="one")
                else:
                    for mode in ("one", "many"):
                        yield call(count, config=config, mode=mode)
                    yield call(count, config=config, mode="one", rows=torch.arange(count), log_prob=False)


def _variable_calls() -> Iterator[Call]:
    """All conditionals in one network, in every configuration, and all that can be asked for in one."""
    output: Output = MIXED
    model = MADE(56, output=output, hidden_features=(128, 128), residual=True, activation="gelu")
    program = model.program()
    packed = pack(program, build_schedule(program))

    def call(tile: Tile, **fields: Any) -> Call:
        count = 2 * tile.config["R"]
        piece = Piece(seed=0, log_prob=torch.empty(count), **fields)
        return partial(draw, packed, torch.empty(count, model.features), piece, config=tile.config, mode="one")

    for multiplies, tiles in VARIABLES.items():
        with precision(multiplies):
            for tile in tiles:
                yield call(tile)
    conditions, _, _ = conditions_of(
        model.conditionals, torch.zeros(56), torch.arange(56) == 1, {16: {1, 2}, 32: Between(0, 1)}, None
    )
    assert isinstance(conditions, Conditions)
    (tile,) = ASKED["ieee"]
    yield call(tile, conditions=conditions.moved(program.device, program.dtype), decoding=Decoding(temperature=2.0))
