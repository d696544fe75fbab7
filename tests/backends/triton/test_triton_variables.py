"""Draws between blocks: every conditional, alone and mixed, plain and under all that can be asked for."""

from typing import Any

import pytest
import torch
from drawing import draw_piece
from quick import some
from torch import Tensor

from made_fast import MADE, backends
from made_fast.outputs.binary import Spin
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed, make_output
from made_fast.outputs.mixtures import MixtureOfLogistics, MixtureOfNormals
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.programs.program import Affine, Multiply, Program, Term, X
from made_fast.programs.schedule import build_schedule
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Between
from made_fast.testing import naive_sample, unexplained_differences

triton = pytest.importorskip("triton", reason="triton is not installed")

from made_fast.backends import reference  # noqa: E402
from made_fast.backends.triton.drawing import launches as sampling  # noqa: E402
from made_fast.backends.triton.drawing.sizes import LAYOUT, Layout  # noqa: E402
from made_fast.backends.triton.launch import Config  # noqa: E402

ROW = next(row for row in backends.BACKENDS if row.name == "triton")
DEVICE = ROW.devices[0]
LACKS = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(),
    reason="needs a GPU, or TRITON_INTERPRET=1 in the environment (make test does that)",
)
pytestmark = [pytest.mark.triton, pytest.mark.interpreter, LACKS]
SMALL = Layout(16, 16, 16, 2)
TILE = Config.of(4, 3, R=64)
FEATURES = 9
OUTPUTS: dict[str, Output] = {
    "spin": Spin(),
    "categorical": Categorical([2, 5, 3, 1, 40, 7, 2, 33, 4]),
    "embedded": Categorical([2, 5, 3, 1, 40, 7, 2, 33, 4], embedding=3),
    "normal": Normal(),
    "mixture_of_normals": MixtureOfNormals(3),
    "mixture_of_logistics": MixtureOfLogistics(5, levels=16),
    "mixed": Mixed(
        [
            *("bernoulli", Spin(), Categorical(5), Normal(), MixtureOfNormals(2), MixtureOfLogistics(3)),
            *(Categorical(4, embedding=2), "bernoulli", Normal()),
        ]
    ),
}
STACKS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_features": (24, 16)},
    "residual": {"hidden_features": (16, 16), "residual": True, "direct": True, "order": "random"},
    "context": {"hidden_features": (20,), "context_features": 2, "degrees": "random"},
}


def _model(output: str, stack: str = "plain") -> MADE:
    torch.manual_seed(sum(map(ord, output + stack)))
    model = MADE(FEATURES, output=OUTPUTS[output], **STACKS[stack])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape) * (1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5)
            )
    return model


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-4)


def _check_log_prob(found: Tensor, model: MADE, x: Tensor, context: Tensor | None = None) -> None:
    """Against fp64, and four times what torch in fp32 is off: narrow normals magnify the last digits of their location."""
    with torch.no_grad():
        plain = model.log_prob(x, context)
        exact = model.double().log_prob(x.double(), None if context is None else context.double())
    model.float()
    slack = 4 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
    assert (found - exact).abs().max() <= slack


@pytest.mark.parametrize("mode", ["one", "many"])
@pytest.mark.parametrize("stack", some([*STACKS], {"residual"}))
@pytest.mark.parametrize("output", some([*OUTPUTS], {"mixed"}))
def test_draws_are_those_of_the_definition(output: str, stack: str, mode: str) -> None:
    model = _model(output, stack)
    context = torch.randn(1, 2) if model.context_features else None
    shared = {} if context is None else {"context": context.to(DEVICE), "rows_per_condition": 40}
    program = model.to(DEVICE).program()
    packed = sampling.pack(program, build_schedule(program), layout=SMALL)
    x, log_prob = torch.full((37, FEATURES), torch.nan, device=DEVICE), torch.full((37,), torch.nan, device=DEVICE)
    tile = Config.of(4, 3, R=16) if stack == "plain" else TILE
    draw_piece(sampling, packed, x, log_prob, seed=5, first_row=0, config=tile, mode=mode, programs=2, **shared)
    model, x = model.cpu(), x.cpu()
    assert not unexplained_differences(model, x if context is None else x[None], context, seed=5).any()
    _check_log_prob(log_prob.cpu(), model, x, None if context is None else context.expand(37, -1))


@pytest.mark.parametrize("output", ["spin", "categorical", "mixed"])
def test_the_layout_of_packed_programs(output: str) -> None:
    """Parameters share their columns, begin a block where they are many, and are all known where they are read."""
    program = _model(output).program()
    schedule = build_schedule(program)
    for layout in (SMALL, LAYOUT):
        packed = sampling.pack(program, schedule, layout=layout)
        if output == "spin":
            assert packed.drawn is None
            assert packed.least == -1
            packed = packed.between_blocks
        plan = packed.plan
        written: set[int] = set()
        places = []
        for block, slots in zip(plan.blocks.tolist(), plan.slots.tolist(), strict=True):
            written |= {slot for slot in slots if slot >= 0}
            for place in range(*block[7:9]):
                count = program.conditionals[schedule.variables[place]].num_params
                own = set(range(plan.param_slots[place], plan.param_slots[place] + count))
                assert own <= written
                written -= own  # read once
                places.append(place)
        assert places == list(range(FEATURES))
        assert plan.num_slots <= schedule.num_slots + layout.inputs + 3 + max(program.params_per_variable)
        assert packed.between_blocks is packed


def test_products_before_many_parameters() -> None:
    """A parameter that is a product of two units: the block that it begins begins with its second factor."""
    generator = torch.Generator().manual_seed(1)
    steps, size = torch.arange(4), 12
    owner = steps.repeat_interleave(size)

    def affine() -> Affine:
        mask = owner[:, None] > owner[None]
        return Affine((Term(X, torch.randn(mask.shape, generator=generator) * mask, mask),), torch.randn(48) / 2)

    output = Categorical(size)
    program = Program(4, 0, (affine(), affine(), Multiply(2, 3)), steps, (size,) * 4, output.conditionals(4))
    schedule = build_schedule(program)
    expected, nats = torch.empty(40, 4), torch.empty(40)
    draw_piece(reference, reference.pack(program, schedule), expected, nats, seed=5, first_row=0)
    moved = program._mapped(lambda weight: weight.to(DEVICE), lambda bias: bias.to(DEVICE))
    for mode in ("one", "many"):
        x, log_prob = torch.empty(40, 4, device=DEVICE), torch.empty(40, device=DEVICE)
        packed = sampling.pack(moved, schedule, layout=SMALL)
        draw_piece(sampling, packed, x, log_prob, seed=5, first_row=0, config=TILE, mode=mode)
        assert torch.equal(x.cpu(), expected)  # no uniform of this seed lies next to its threshold
        torch.testing.assert_close(log_prob.cpu(), nats, rtol=1e-5, atol=1e-5)


def _asked(model: MADE, what: str) -> dict[str, Any]:
    """Arguments of ``sample`` for five rows of conditions, or a decoding."""
    if what in ("temperature", "greedy"):
        return {"temperature": 0.6} if what == "temperature" else {"greedy": True}
    found: dict[str, Any] = {}
    if "given" in what:
        observed = torch.rand(5, FEATURES, generator=torch.Generator().manual_seed(1)) < 0.4
        found = {"given": naive_sample(model, 5, seed=9), "observed": observed}
    if "allowed" in what:
        generator = torch.Generator().manual_seed(2)
        queries = []
        for _ in range(5):
            query: dict[int, Any] = {}
            for variable, conditional in enumerate(model.conditionals):
                values = conditional.values()
                if values is None:
                    low = float(torch.randn((), generator=generator))
                    query[variable] = Between(low, low + 0.7) if variable % 2 else Between(None, low)
                else:
                    some = torch.rand(len(values), generator=generator) < 0.5
                    query[variable] = values[some] if bool(some.any()) else values
            queries.append({variable: query[variable] for variable in range(5)} if what == "allowed" else {1: query[1]})
        found["allowed"] = queries
        if "given" in what:
            found["observed"][:, 1] = False
    return found


@pytest.mark.parametrize(
    "what",
    some(["given", "allowed", "given and allowed", "temperature", "greedy"], {"given and allowed", "temperature"}),
)
@pytest.mark.parametrize("output", some(["bernoulli", *OUTPUTS], {"mixed"}))
def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, output: str, what: str) -> None:
    monkeypatch.setitem(OUTPUTS, "bernoulli", make_output("bernoulli"))
    model = _model(output)
    options = _asked(model, what)
    drawn = model.to(DEVICE).sample_and_log_prob(12, seed=3, backend="triton", **options)
    model = model.cpu()
    x, log_prob, *log_weight = (each.cpu() for each in drawn)
    assert not unexplained_differences(model, x, seed=3, **options).any()
    _check_log_prob(log_prob.flatten(), model, x.reshape(-1, FEATURES))
    if log_weight:
        expected = model.sample(12, seed=3, backend="reference", **options)
        same = ((expected.x - x).abs() < 1e-4).all(-1)
        assert same.float().mean() > 0.9
        _close(log_weight[0][same], expected.log_weight[same].double())


def test_masses_far_out_and_none_at_all() -> None:
    model = MADE(2, output=Normal(), hidden_features=())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    scale = float(torch.nn.functional.softplus(torch.zeros(()))) + 1e-4
    bounds = [(8.0, 9.0), (-30.0, -25.0), (100.0, 101.0), (None, -200.0), (0.5, 0.5), (-1e30, 1e30)]
    queries = [{0: Between(*ends), 1: Between(*ends)} for ends in bounds]
    x, log_weight = model.to(DEVICE).sample(8, seed=1, allowed=queries, backend="triton")
    for (low, high), row, weight in zip(bounds, x.cpu(), log_weight.cpu(), strict=True):
        assert ((row >= (-torch.inf if low is None else low)) & (row <= high)).all()
        ends = torch.tensor([-torch.inf if low is None else low, high], dtype=torch.float64) / scale
        if ends[0] > 0:
            ends = -ends.flip(0)
        lower, upper = (torch.special.log_ndtr(end) for end in ends)
        _close(weight, 2 * (upper + torch.log1p(-(lower - upper).exp())).expand(8))
    torch.testing.assert_close(x[2].cpu(), torch.full((8, 2), 100.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(x[3].cpu(), torch.full((8, 2), -200.0), rtol=1e-3, atol=0)


def test_the_first_allowed_value_where_none_has_weight() -> None:
    model = MADE(1, output=Categorical(6), hidden_features=())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.tensor([3e38, 1.0, -3e38, 0.5, -3e38, 0.0]).expand(parameter.shape))
    x, log_weight = model.to(DEVICE).sample(5, seed=1, allowed={0: {4, 2}}, backend="triton")
    assert (x == 2).all()
    assert torch.isneginf(log_weight).all()


@pytest.mark.parametrize("mode", some(["one", "many"], {"many"}))
def test_scratch_is_never_read_before_it_is_written(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    program = _model("mixed", "residual").to(DEVICE).program()
    packed = sampling.pack(program, build_schedule(program), layout=SMALL)

    def drawn() -> list[Tensor]:
        found = [torch.zeros(shape, device=DEVICE) for shape in ((20, FEATURES), (20,))]
        draw_piece(sampling, packed, *found, seed=5, first_row=0, config=TILE, mode=mode)
        return found

    expected, plain = drawn(), torch.empty

    def poisoned(*size: Any, **options: Any) -> Tensor:
        made = plain(*size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made.fill_(-(2**31) + 1)

    monkeypatch.setattr(torch, "empty", poisoned)
    for found, wanted in zip(drawn(), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.slow
def test_rows_are_those_of_one_draw_whatever_the_parts() -> None:
    model = _model("mixed").to(DEVICE)
    given, observed = torch.ones(4, FEATURES), torch.arange(FEATURES).expand(4, -1) == 1
    whole = model.sample(50, seed=2, backend="triton")
    assert torch.equal(model.sample(20, seed=2, first_row=30, backend="triton"), whole[30:])
    assert torch.equal(model.sample(3, seed=2, rows=torch.tensor([7, 0, 49]), backend="triton"), whole[[7, 0, 49]])
    program = model.program()
    packed = sampling.pack(program, build_schedule(program))
    options = {"given": given, "observed": observed}
    expected = model.sample(20, seed=2, backend="triton", **options)
    conditions, _, _ = conditions_of(model.conditionals, given, observed, None, None)
    assert conditions is not None
    x, log_weight = torch.empty(80, FEATURES, device=DEVICE), torch.empty(80, device=DEVICE)
    conditions = conditions.moved(torch.device(DEVICE), torch.float32)
    more = {"conditions": conditions, "rows_per_condition": 20, "mode": "many", "config": Config.of(4, 3, R=16)}
    draw_piece(sampling, packed, x, None, seed=2, first_row=0, log_weight=log_weight, programs=1, **more)
    assert torch.equal(x.reshape(4, 20, -1), expected.x)
    assert torch.equal(log_weight.reshape(4, 20), expected.log_weight)


@pytest.mark.parametrize("output", some(["categorical", "normal", "mixture_of_logistics"], {"normal"}))
def test_a_parameter_that_is_nan_is_told(output: str) -> None:
    model = _model(output)
    with torch.no_grad():
        model.parameters_layer.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="parameters became nan"):
        model.to(DEVICE).sample(4, seed=1, backend="triton")
