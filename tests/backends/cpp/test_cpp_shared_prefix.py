"""Samples of one condition share what follows from the variables observed first: bit for bit what each row gives alone."""

import importlib
import statistics
import time
from typing import Any

import pytest
import torch
from drawing import draw_piece
from quick import some
from torch import Tensor

from made_fast import MADE, build_config
from made_fast.outputs.binary import Bernoulli, Spin
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.mixtures import MixtureOfNormals
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.requests.conditions import Conditions

pytestmark = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")

MIXED = Mixed([Bernoulli(), Categorical(9), Normal(), Categorical(3), Categorical(30, embedding=3), Spin()] * 5)
MODELS: dict[str, tuple[Output, dict[str, Any]]] = {
    "bernoulli": (Bernoulli(), {"hidden_features": (70, 66), "order": "random"}),
    "bernoulli, direct": (Bernoulli(), {"hidden_features": (37,), "direct": True, "degrees": "random"}),
    "normal": (Normal(), {"hidden_features": (30, 30, 30), "residual": True, "activation": "silu"}),
    "mixtures": (MixtureOfNormals(3), {"hidden_features": (40,), "direct": True, "order": "reversed"}),
    "categorical": (Categorical(11), {"hidden_features": (50, 41), "order": "random"}),
    "mixed": (MIXED, {"hidden_features": (50, 40), "context_features": 2, "degrees": "random"}),
    "linear": (MIXED, {"hidden_features": (), "direct": True}),
}


def _model(name: str, dtype: torch.dtype) -> MADE:
    output, options = MODELS[name]
    torch.manual_seed(0)
    return MADE(30, output=output, **options).to(dtype).eval()


def _given(model: MADE, dtype: torch.dtype, observed_first: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Three conditions that differ: in the values, in how many come first, in some more that are observed behind."""
    context = (
        torch.linspace(-1, 1, 3 * model.context_features).reshape(3, -1).to(dtype) if model.context_features else None
    )
    given = model.sample(1, context, seed=9, backend="reference").reshape(-1, 30)
    given = given if len(given) == 3 else model.sample(3, seed=9, backend="reference")
    observed = torch.zeros(3, 30, dtype=torch.bool)
    for row in range(3):
        observed[row, model.order[: max(0, observed_first - row)]] = True
    observed[1, model.order[25:28]] = True
    return given, observed, context


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("observed_first", some([0, 1, 8, 13, 29, 30], {13, 30}))
@pytest.mark.parametrize("name", MODELS)
def test_shared_or_not_every_bit_is_the_same(name: str, observed_first: int, dtype: torch.dtype) -> None:
    model = _model(name, dtype)
    given, observed, context = _given(model, dtype, observed_first)
    count = 70  # more than a tile of some rows, and not a multiple
    options: dict[str, Any] = {"seed": 4, "backend": "cpp"}
    shared = model.sampler().sample_and_log_prob(count, context, given=given, observed=observed, **options)
    alone = model.sampler().sample_and_log_prob(
        1,
        None if context is None else context.repeat_interleave(count, 0),
        given=given.repeat_interleave(count, 0),
        observed=observed.repeat_interleave(count, 0),
        **options,
    )
    for one, other in zip(shared, alone, strict=True):
        assert torch.equal(one.flatten(0, 1), other.flatten(0, 1))
    few = model.sampler().sample_and_log_prob(2, context, given=given, observed=observed, **options)  # row by row
    first = model.sampler().sample_and_log_prob(count, context, given=given, observed=observed, **options)
    for one, other in zip(few, first, strict=True):
        assert torch.equal(one[0], other[0, :2])


def test_pieces_of_a_request_share_as_the_whole_does() -> None:
    """A request is cut into pieces that begin and end within a condition."""
    cpp = importlib.import_module("made_fast.backends.cpp")
    model = _model("bernoulli", torch.float32)
    given, observed, _ = _given(model, torch.float32, 12)
    whole, _ = model.sampler().sample(100, seed=4, given=given, observed=observed, backend="cpp")
    conditions = Conditions(given.contiguous(), observed.to(torch.uint8).contiguous(), None, None, None)
    packed = cpp.pack(model.program(), model.sampler().schedule)
    for first, last in [(0, 300), (30, 41), (95, 105), (99, 300), (210, 299)]:
        out = torch.full((last - first, 30), torch.nan)
        draw_piece(
            cpp, packed, out, None, seed=4, first_row=0, row_offset=first, rows_per_condition=100, conditions=conditions
        )
        assert torch.equal(out, whole.flatten(0, 1)[first:last])


@pytest.mark.slow
def test_a_prefix_saves_time(set_threads: Any) -> None:
    """With 9 of 10 variables observed first, samples take a fraction of the processor time of samples of all variables."""
    set_threads(1)
    model = MADE(784, (512, 512)).eval()
    sampler, given = model.sampler(), torch.zeros(784)
    observed = torch.arange(784) < 706
    scattered = observed.flip(0)  # as many, behind those that are drawn: nothing is shared

    def seconds(mask: Tensor) -> float:
        begin = time.thread_time()
        sampler.sample(960, seed=0, given=given, observed=mask, backend="cpp")
        return time.thread_time() - begin

    times = [(seconds(observed), seconds(scattered)) for _ in range(9)]
    shared, others = (statistics.median(column) for column in zip(*times, strict=True))
    assert shared < 0.7 * others
